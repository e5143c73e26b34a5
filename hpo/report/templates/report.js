const places = document.querySelectorAll(".figure");
const brighter = { // what a colour of the figures becomes on dark paper
  "#0072b2": "#3fa9f5", "#d55e00": "#ff8a3d", "#009e73": "#2fd3a2", "#56b4e9": "#a9dcf8", "#000000": "#ffffff",
  "#888888": "#b5b5b5",
};
const dark = matchMedia("(prefers-color-scheme: dark)");
const printed = {"--ink": "#1b1b1b", "--line": "#dddddd", "--paper": "#ffffff"};
function draw(printing) {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => printing ? printed[name] : style.getPropertyValue(name).trim();
  const [ink, line, paper] = ["--ink", "--line", "--paper"].map(colour);
  const axis = {gridcolor: line, zerolinecolor: line, linecolor: line, tickcolor: line};
  const brighten = dark.matches && !printing ? brighter : {};
  for (const place of places) {
    const figure = place.dataset.figure.replace(/#[0-9a-f]{6}/g, (colour) => brighten[colour] ?? colour);
    const {data, layout} = JSON.parse(figure);
    const narrow = place.clientWidth < 480;
    const drawn = {...layout, font: {...layout.font, color: ink, size: narrow ? 11 : 13},
      annotations: (layout.annotations ?? []).map((text) => ({...text, bgcolor: paper, opacity: 0.85})),
      xaxis: {...layout.xaxis, ...axis, automargin: true}, yaxis: {...layout.yaxis, ...axis}};
    Plotly.react(place, data, drawn, {responsive: true, displayModeBar: false});
  }
}
draw(false);
dark.addEventListener("change", () => draw(false));
addEventListener("beforeprint", () => draw(true));
addEventListener("afterprint", () => draw(false));
