"use strict";
// Draws the figures of a page from the JSON beside them, and binds its switches and sliders.

const LOOK = {
  paper_bgcolor: "rgba(0,0,0,0)",
  plot_bgcolor: "rgba(0,0,0,0)",
  font: { family: "system-ui, sans-serif", size: 12 },
  margin: { l: 56, r: 12, t: 8, b: 44 },
  hovermode: "x unified",
  showlegend: false,
};
const CONFIG = { displayModeBar: false, responsive: true };

const panels = [...document.querySelectorAll(".panel")].map((element) => ({
  element,
  plot: element.querySelector(".plot"),
  figure: JSON.parse(element.querySelector("script").textContent),
  drawn: false,
}));
const hidden = new Set();

function draw(panel) {
  if (panel.drawn) return;
  panel.drawn = true;
  const { data, layout } = panel.figure;
  const merged = { ...LOOK, ...layout };
  for (const trace of data) trace.visible = !hidden.has(trace.meta);
  Plotly.newPlot(panel.plot, data, merged, CONFIG);
}

function toggle(input) {
  const variant = Number(input.dataset.switch);
  if (input.checked) hidden.delete(variant);
  else hidden.add(variant);
  for (const row of document.querySelectorAll(`[data-variant="${variant}"]`))
    row.classList.toggle("off", !input.checked);
  for (const { plot, figure, drawn } of panels)
    if (drawn) Plotly.restyle(plot, { visible: figure.data.map((trace) => !hidden.has(trace.meta)) });
}

function move(input) {
  const position = Number(input.value);
  const label = JSON.parse(input.dataset.labels)[position];
  const figure = input.closest("figure");
  figure.querySelector("output").textContent = label;
  input.setAttribute("aria-valuetext", `epoch ${label}`);
  for (const panel of panels.filter(({ element }) => figure.contains(element))) {
    const frame = panel.figure.frames[position];
    if (!frame) continue;
    frame.forEach((y, index) => { panel.figure.data[index].y = y; });
    if (panel.drawn) Plotly.restyle(panel.plot, { y: frame });
  }
}

const seen = new IntersectionObserver((entries) => {
  for (const entry of entries)
    if (entry.isIntersecting) draw(panels.find(({ plot }) => plot === entry.target));
}, { rootMargin: "600px" });
for (const { plot } of panels) seen.observe(plot);

for (const input of document.querySelectorAll("[data-switch]"))
  input.addEventListener("change", () => toggle(input));
for (const input of document.querySelectorAll("[type=range]"))
  input.addEventListener("input", () => move(input));
window.addEventListener("beforeprint", () => panels.forEach(draw));
