// Pictures that answer the pointer.  One script serves every picture of a page: in a panel it is
// an anywidget module, in a report it is part of the page.
//
// - The pointer near a point: its name and its numbers.  A click pins its part: the others fade.
// - The pointer over a name: its part stands out.  A click takes it out of the picture, or back.
// What was pinned or taken out stays so, by name, when a picture is drawn anew.

const FIGURE = "figure.fedlab-picture";
const NEAR = 28;  // pixels from a point within which the pointer means it

const states = new WeakMap();  // by the element around a picture, which outlives the picture
const points = new WeakMap();  // by picture

function stateOf(figure) {
  const around = figure.parentElement;
  if (!states.has(around)) states.set(around, {out: new Set(), pinned: null});
  return states.get(around);
}

function runsOf(figure) {
  if (!points.has(figure)) {
    points.set(figure, JSON.parse(figure.querySelector("script").textContent));
  }
  return points.get(figure);
}

function nameOf(figure, element) {
  return runsOf(figure)[element.dataset.run].name;
}

/** Show what is taken out, what is pinned, and what the pointer is over. */
function mark(figure, over = null) {
  const {out, pinned} = stateOf(figure), runs = runsOf(figure);
  const lit = runs.some(run => run.name === over) ? over
    : runs.some(run => run.name === pinned) ? pinned : null;
  figure.classList.toggle("lit", lit !== null);
  for (const element of figure.querySelectorAll("[data-run]")) {
    const name = nameOf(figure, element);
    element.classList.toggle("out", out.has(name));
    element.classList.toggle("on", name === lit);
    if (element.type === "button") element.ariaPressed = String(!out.has(name));
  }
}

/** Return the point of the bar under the pointer, or nothing. */
function under(figure, event) {
  const part = event.target.closest?.("svg [data-run]");
  if (!part) return null;
  const {name, points, bars} = runsOf(figure)[part.dataset.run];
  if (!bars) return null;
  const parts = [...figure.querySelectorAll(`svg [data-run="${part.dataset.run}"]`)];
  const point = points[parts.indexOf(part)];
  return point ? {name, x: point[0], y: point[1], words: point[2]} : null;
}

/** Return the point under the pointer, or else the nearest one, or nothing if none is near. */
function nearest(figure, event) {
  const direct = under(figure, event);
  if (direct) return direct;
  const svg = figure.querySelector("svg"), box = svg.getBoundingClientRect();
  const scale = box.width / svg.viewBox.baseVal.width, {out} = stateOf(figure);
  let best = null, least = NEAR * NEAR;
  for (const {name, points} of runsOf(figure)) {
    if (out.has(name)) continue;
    for (const [x, y, words] of points) {
      const away = (box.left + scale * x - event.clientX) ** 2
        + (box.top + scale * y - event.clientY) ** 2;
      if (away < least) [best, least] = [{name, x, y, words}, away];
    }
  }
  return best;
}

let tip = null;

function say(point, event, hint) {
  tip ??= document.body.appendChild(document.createElement("div"));
  tip.className = "fedlab-tip";
  tip.hidden = !point;
  if (!point) return;
  const bold = document.createElement("b"), soft = document.createElement("i");
  bold.textContent = point.name;
  soft.textContent = hint;
  tip.replaceChildren(bold, point.words, document.createElement("br"), soft);
  const {width, height} = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - width - 4))}px`;
  const above = event.clientY - height - 12;
  tip.style.top = `${above > 4 ? above : event.clientY + 18}px`;
}

function ring(figure, point) {
  figure.querySelector(".fedlab-dot")?.remove();
  if (!point) return;
  const dot = document.createElementNS("http://www.w3.org/2000/svg", "circle");
  for (const [name, value] of [["cx", point.x], ["cy", point.y], ["r", 4]]) {
    dot.setAttribute(name, value);
  }
  dot.classList.add("fedlab-dot");
  figure.querySelector("svg").append(dot);
}

let last = null;  // the picture that the pointer was over
let pointer = null;  // where it is

function leave() {
  if (!last) return;
  if (last.isConnected) {
    mark(last);
    ring(last, null);
    last.querySelector(".near")?.classList.remove("near");
  }
  say(null);
  last = null;
}

function move(event) {
  const figure = event.target.closest?.(FIGURE);
  if (figure !== last) leave();
  pointer = figure && {clientX: event.clientX, clientY: event.clientY};
  if (!figure) return;
  last = figure;
  const name = event.target.closest("button[data-run]");
  mark(figure, name && nameOf(figure, name));
  const point = name ? null : nearest(figure, event);
  ring(figure, point);
  const hint = stateOf(figure).pinned === point?.name ? "click: let go" : "click: pin";
  say(point, event, runsOf(figure).length > 1 ? hint : "");
  for (const button of figure.querySelectorAll("button[data-run]")) {
    button.classList.toggle("near", nameOf(figure, button) === point?.name);
  }
}

function click(event) {
  const figure = event.target.closest?.(FIGURE);
  if (!figure) return;
  const state = stateOf(figure), button = event.target.closest("button[data-run]");
  if (button) {
    const name = nameOf(figure, button);
    state.out.delete(name) || state.out.add(name);
    if (state.pinned === name) state.pinned = null;
    mark(figure);
    return;
  }
  const point = nearest(figure, event);
  state.pinned = point && state.pinned !== point.name ? point.name : null;
  move(event);  // a tap moves no pointer before
}

/** Copy the text of the button that was pressed, and say so beside it. */
async function copy(event) {
  const button = event.target.closest?.(".fedlab-copy button, button.fedlab-copy, [data-copy]");
  if (!button) return;
  const panel = button.closest(".fedlab-panel") ?? document;
  const field = panel.querySelector(".fedlab-link input");
  const places = [...panel.querySelectorAll(".fedlab-said")];
  const after = place => button.compareDocumentPosition(place) & Node.DOCUMENT_POSITION_FOLLOWING;
  const said = places.find(after) ?? places[0];
  try {
    await navigator.clipboard.writeText(button.dataset.copy ?? field.value);
    if (said) said.textContent = "copied";
  } catch (error) {  // a page that is not secure has no clipboard
    if (said) said.textContent = "not copied: select the text, and press Ctrl+C";
  }
  setTimeout(() => { if (said) said.textContent = ""; }, 4000);
}

function install() {
  if (document.fedlabPictures) return;
  document.fedlabPictures = true;
  document.addEventListener("pointermove", move);
  document.addEventListener("pointerleave", leave);
  document.addEventListener("pointercancel", leave);
  document.addEventListener("scroll", leave, true);
  document.addEventListener("click", click);
  document.addEventListener("click", copy);
  // a page that replaces a picture sends this event
  document.addEventListener("fedlab-shown", event => {
    for (const figure of event.target.querySelectorAll(FIGURE)) mark(figure);
    const target = pointer && document.elementFromPoint(pointer.clientX, pointer.clientY);
    if (target && event.target.contains(target)) move({target, ...pointer});
  });
}

install();

export default {
  render({model, el}) {
    const show = () => {
      el.innerHTML = model.get("html");
      el.dispatchEvent(new Event("fedlab-shown", {bubbles: true}));
    };
    model.on("change:html", show);
    show();
  },
};
