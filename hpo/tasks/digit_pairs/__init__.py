"""The digit pairs: two 14x14 digits, is the first <= the second?"""
