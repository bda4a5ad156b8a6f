"use strict";
// Draws the figures of a page from the JSON beside them when they come into view, and binds switches and sliders.

const LOOK = {
  paper_bgcolor: "rgba(0,0,0,0)",
  plot_bgcolor: "rgba(0,0,0,0)",
  font: { family: "system-ui, sans-serif", size: 12 },
  margin: { l: 60, r: 14, t: 10, b: 42 },
  hovermode: "x unified",
  hoverlabel: { namelength: 40 },
  showlegend: false,
  uirevision: "kept", // a zoom outlives a move of the slider
  dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom", // a finger scrolls the page
};
const AXIS = { automargin: true, zeroline: false, ticks: "outside", ticklen: 4, title: { standoff: 8 } };
const CONFIG = { displayModeBar: false, responsive: true };
const MARGIN = 0.05;
const FRAME_MILLISECONDS = 300;

const panels = [...document.querySelectorAll(".panel")].map((element) => ({
  element,
  group: element.closest("figure"),
  plot: element.querySelector(".plot"),
  figure: JSON.parse(element.querySelector("script").textContent),
  drawn: false,
}));
const hidden = new Set();

const shown = (trace) => !hidden.has(trace.meta);

function draw(panel) {
  if (panel.drawn) return;
  panel.drawn = true;
  const { data, layout } = panel.figure;
  const axes = Object.keys(layout).filter((key) => /^[xy]axis/.test(key));
  const merged = { ...LOOK, ...layout };
  for (const key of axes)
    merged[key] = { ...AXIS, showgrid: key[0] === "y", ...layout[key], title: { ...AXIS.title, ...layout[key].title } };
  Object.assign(merged.yaxis, commonScale(panel));
  for (const trace of data) trace.visible = shown(trace);
  Plotly.newPlot(panel.plot, data, merged, CONFIG);
}

// The y axis that the visible traces of all drawings with the same scale need.
function commonScale({ group, figure: { scale, layout } }) {
  if (!scale) return {};
  const logarithmic = layout.yaxis.type === "log";
  const alike = panels.filter((panel) => panel.group === group && panel.figure.scale === scale);
  let low = Infinity, high = -Infinity;
  for (const trace of alike.flatMap((panel) => panel.figure.data).filter(shown))
    for (const value of trace.y) {
      if (value === null || (logarithmic && value <= 0)) continue;
      const place = logarithmic ? Math.log10(value) : value;
      low = Math.min(low, place);
      high = Math.max(high, place);
    }
  if (low > high) return {};
  if (layout.yaxis.rangemode === "tozero") low = Math.min(low, 0);
  const margin = MARGIN * (high - low) || MARGIN;
  const range = [low - margin, high + margin];
  return logarithmic ? { range, dtick: ticksOfDecades(high - low) } : { range };
}

// Whole decades; 1, 2, 5 where there are few; what fits where there is less than one.
function ticksOfDecades(decades) {
  if (decades > 2.5) return Math.ceil(decades / 6);
  return decades > 0.7 ? "D2" : null;
}

function toggle(input) {
  const variant = Number(input.dataset.switch);
  if (input.checked) hidden.delete(variant);
  else hidden.add(variant);
  for (const row of document.querySelectorAll(`[data-variant="${variant}"]`)) row.classList.toggle("off", !input.checked);
}

function redraw() {
  for (const panel of panels.filter(({ drawn }) => drawn)) {
    const axis = Object.entries(commonScale(panel)).map(([key, value]) => [`yaxis.${key}`, value]);
    Plotly.update(panel.plot, { visible: panel.figure.data.map(shown) }, Object.fromEntries(axis));
  }
}

function move(input) {
  const position = Number(input.value);
  const label = JSON.parse(input.dataset.labels)[position];
  const group = input.closest("figure");
  group.querySelector("output").textContent = label;
  input.setAttribute("aria-valuetext", `epoch ${label}`);
  for (const { plot, figure, drawn } of panels.filter((panel) => panel.group === group)) {
    const frame = figure.frames[position];
    frame.forEach((change, index) => Object.assign(figure.data[index], change));
    if (drawn) Plotly.react(plot, figure.data, plot.layout);
  }
}

// Goes through the positions of a slider once, from the first one if it stands at the last.
function play(button) {
  const input = button.closest("figure").querySelector("[type=range]");
  const stop = () => {
    clearInterval(button.timer);
    button.timer = null;
    button.textContent = "Play";
  };
  const step = () => {
    if (input.value === input.max) return stop();
    input.stepUp();
    move(input);
  };
  if (button.timer) return stop();
  if (input.value === input.max) input.value = input.min;
  move(input);
  button.textContent = "Pause";
  button.timer = setInterval(step, FRAME_MILLISECONDS);
}

const toBeOpened = () => document.querySelectorAll("details:not([open])");
let opened = [];

// Drawings have a size of their own, so they are fitted to the width of the paper by hand.
function fit() {
  for (const { plot } of panels) Plotly.relayout(plot, { width: plot.clientWidth, height: plot.clientHeight });
}

function toPaper() {
  document.body.classList.add("paper");
  opened = [...toBeOpened()];
  for (const details of opened) details.open = true;
  panels.forEach(draw);
  fit();
}

function toScreen() {
  document.body.classList.remove("paper");
  for (const details of opened) details.open = false;
  fit();
  for (const { plot } of panels) Plotly.relayout(plot, { width: null, height: null, autosize: true });
}

const seen = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries)
    if (isIntersecting) draw(panels.find(({ plot }) => plot === target));
}, { rootMargin: "600px" });
for (const { plot } of panels) seen.observe(plot);

// What gets the focus must not lie behind the switches.
const bar = new ResizeObserver(([{ target }]) => {
  document.documentElement.style.scrollPaddingTop = `${target.offsetHeight}px`;
});
for (const element of document.querySelectorAll(".switches")) bar.observe(element);

const switches = [...document.querySelectorAll("[data-switch]")];
for (const input of switches)
  input.addEventListener("change", () => { toggle(input); redraw(); });
for (const button of document.querySelectorAll("[data-all]"))
  button.addEventListener("click", () => {
    for (const input of switches) { input.checked = button.dataset.all === "on"; toggle(input); }
    redraw();
  });
for (const input of document.querySelectorAll("[type=range]"))
  input.addEventListener("input", () => move(input));
for (const button of document.querySelectorAll("[data-play]"))
  button.addEventListener("click", () => play(button));
window.addEventListener("beforeprint", toPaper);
window.addEventListener("afterprint", toScreen);
