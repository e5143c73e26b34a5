-- hpo's own role, which owns its database and is no superuser: whoever has a worker's password can change studies, and
-- runs no program in the database's container. PostgreSQL's image runs this once, on an empty volume, as its superuser.
\set password `cat "$HPO_PASSWORD_FILE"`
create role hpo login password :'password';
create database hpo owner hpo;
