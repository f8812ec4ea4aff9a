// Live panels: the controls move among states that were computed when the report was made.
for (const panel of document.querySelectorAll(".fedlab-live")) {
  const part = (name) => panel.querySelector(".fedlab-" + name);
  const shown = part("shown"), note = part("note"), moves = part("moves");
  const inputs = [...moves.querySelectorAll("input, select")];
  const names = [...moves.querySelectorAll("label > span")].map((label) => label.textContent);
  const words = JSON.parse(part("axes").textContent);
  const inWords = (axis, at) => names[axis] + " = " + words[axis][at];

  const unpack = async () => {
    const packed = Uint8Array.from(atob(part("states").textContent), (sign) => sign.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  };

  const start = ({ parts, states }) => {
    let position = states[0].at;
    const place = () => inputs.forEach((input, axis) => {
      input.value = position[axis];
      const word = words[axis][position[axis]];
      input.setAttribute("aria-valuetext", word);
      if (input.type === "range") input.nextElementSibling.textContent = word;
    });
    const put = (name, content) => { shown.querySelector(".fedlab-" + name).innerHTML = content; };
    const show = (state) => {
      inputs.forEach((input, axis) => {
        const why = state.idle?.[names[axis]] ?? "";  // a control that does nothing at this setting
        input.disabled = Boolean(why);
        input.parentElement.querySelector(".fedlab-why").textContent = why;
      });
      const failed = state.error !== undefined;
      const setting = state.at.map((at, axis) => inWords(axis, at)).join(", ");
      const failure = setting + " failed when this report was made: " + state.error;
      shown.querySelector(".fedlab-status").textContent = failed ? failure : state.status;
      shown.classList.toggle("fedlab-failed", failed);
      put("figure", failed ? "" : parts[state.figure]);
      put("table > div", failed ? "" : parts[state.numbers]);
      shown.dispatchEvent(new Event("fedlab-shown", { bubbles: true }));
    };
    // The state at these positions; where it was not computed, the nearest one with this value of
    // the moved control.
    const nearest = (wanted, moved) => {
      const steps = (state) => state.at.reduce((sum, at, axis) => sum + Math.abs(at - wanted[axis]), 0);
      const able = states.filter((state) => state.at[moved] === wanted[moved]);
      return able.reduce((best, state) => (steps(state) < steps(best) ? state : best));
    };
    inputs.forEach((input, axis) => input.addEventListener("input", () => {
      const wanted = position.map((at, k) => (k === axis ? Number(input.value) : at));
      const state = nearest(wanted, axis);
      const others = state.at.map((at, k) => (at === wanted[k] ? "" : inWords(k, at))).filter(Boolean);
      const missing = wanted.map((at, k) => inWords(k, at)).join(", ");
      note.textContent = others.length ? `${missing} was not computed; moved to ${others.join(", ")} too.` : "";
      position = state.at;
      place();
      show(state);
    }));
    place();
    show(states[0]);
    for (const compared of panel.querySelectorAll(".fedlab-compared")) compared.classList.add("fedlab-folded");
    moves.hidden = false;
  };

  // Where the states cannot be read, the page stays as it is without scripts, and says so.
  unpack().then(start).catch((error) => {
    for (const move of moves.querySelectorAll(".fedlab-move")) move.remove();
    part("about").remove();
    note.textContent = `The controls do not work in this browser (${error}). Try a newer one.`;
    moves.hidden = false;
  });
}
