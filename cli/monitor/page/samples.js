// The samples: shares by step as a chart, and the answers to each prompt. All text is set as text, never as HTML.

const PROMPTS_SHOWN = 10;
const ANSWERS_SHOWN = 20;
const percent = (part, whole) => whole ? 100 * part / whole : null;

// `tools`: what app.js shares: get, element, replace, fillTable, number, color.
export function makeSamples({get, element, replace, fillTable, number, color}) {
  const place = document.getElementById("samples-chart");
  const opened = new Set();
  let plot = null;

  function summary({rounds, note, spent_s, trained_s}) {
    const last = rounds.at(-1);
    const parts = [];
    if (last) {
      parts.push(`after step ${number(last.global_step)}: ${last.matched} of ${last.answers} as expected (${last.match})`);
      if (last.think_tag) parts.push(`${last.thinking} of ${last.answers} with ${last.think_tag}`);
    } else parts.push("No samples yet. They need held-out rows, or a file of prompts: keepstep config set samples.prompts=FILE");
    if (trained_s > 0) parts.push(`cost ${(100 * spent_s / trained_s).toFixed(1)} % of the training time`);
    if (note) parts.push(`newer ones are missing (${note.kind.replace("_", " ")}, step ${number(note.global_step)}): ${note.message}`);
    return parts.join("; ");
  }

  function drawChart(rounds) {
    const data = [rounds.map((each) => each.global_step), rounds.map((each) => percent(each.matched, each.answers)), rounds.map((each) => percent(each.thinking, each.answers))];
    place.hidden = rounds.length === 0;
    if (plot) return plot.setData(data);
    if (!rounds.length) return;
    const line = (label, stroke) => ({label, stroke, width: 2, spanGaps: true, points: {show: true, size: 6}, value: (_, value) => value === null ? "—" : `${Math.round(value)} %`});
    const axis = {stroke: color("--soft"), grid: {stroke: color("--line"), width: 1}, ticks: {stroke: color("--line")}};
    plot = new uPlot({
      width: Math.max(240, place.clientWidth), height: 200, scales: {x: {time: false}, y: {range: [0, 100]}},
      series: [{label: "step"}, line("as expected", color("--green")), line("with the think tag", color("--orange"))],
      axes: [axis, {...axis, size: 64, values: (_, values) => values.map((value) => `${value} %`)}],
      cursor: {drag: {setScale: false}, sync: {key: "steps"}},
    }, data, place);
  }

  // Steps with the same answer are one row, the newest first.
  function rows(answers) {
    const runs = [];
    for (const each of answers) {
      const run = runs.at(-1);
      if (run && run.answer === each.answer && run.match === each.match) run.last = each.global_step;
      else runs.push({...each, first: each.global_step, last: each.global_step});
    }
    return runs.reverse().slice(0, ANSWERS_SHOWN).map(({first, last, match, answer}) => [
      first === last ? first : `${first}–${last}`, match ? "✓" : "✗", element("span", {className: "answer", textContent: answer || "(nothing)"})]);
  }

  function promptBox({prompt_id, prompt, expected, answers}) {
    const table = element("table"), last = answers.at(-1);
    const box = element("details", {open: opened.has(prompt_id)},
      element("summary", {textContent: `${last.match ? "✓" : "✗"} ${prompt.slice(-200)}`}),
      element("p", {className: "answer", textContent: `Expected: ${expected}`}), element("div", {className: "data", tabIndex: 0}, table));
    box.addEventListener("toggle", () => { if (box.open) opened.add(prompt_id); else opened.delete(prompt_id); });
    fillTable(table, ["Step", "", "Answer"], rows(answers));
    return box;
  }

  async function refresh() {
    const shown = await get("/api/samples");
    document.getElementById("samples-note").textContent = summary(shown);
    drawChart(shown.rounds);
    fillTable(document.getElementById("samples-table"), ["Step", "As expected", "With the think tag", "Answers", "Seconds"],
      shown.rounds.map((each) => [each.global_step, each.matched, each.thinking, each.answers, each.seconds]).reverse().slice(0, 200));
    const more = shown.prompts.length - PROMPTS_SHOWN;
    replace("samples-prompts", ...shown.prompts.slice(0, PROMPTS_SHOWN).map(promptBox),
      more > 0 && element("p", {textContent: `and ${more} more prompts: keepstep samples --all`}));
  }

  function restyle() { // The colors changed.
    plot = null;
    place.replaceChildren();
    return refresh();
  }

  new ResizeObserver(() => { if (plot && place.clientWidth) plot.setSize({width: place.clientWidth, height: 200}); }).observe(place);
  return {refresh, restyle};
}
