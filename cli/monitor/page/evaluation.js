// Did it get better? The matrix of losses by file, the versions with their verdicts, and the questions that flipped.

import {$, element, fillTable, get, number, replace, say} from "./common.js";

const FILES_SHOWN = 12;
const ROWS_SHOWN = 20;
const STRONG = 0.5; // A change of so many nats per token has the full color.
const VERDICTS = {pending: "to be evaluated", held: "held", worse: "worse", failed: "not evaluated (failed)", incomplete: "in part", ok: "not worse", "": "not evaluated"};

const signed = (value) => typeof value !== "number" ? String(value ?? "") : `${value >= 0 ? "+" : "−"}${Math.abs(value).toFixed(3)}`;
const loss = (score) => typeof score?.loss === "number" ? score.loss : null;
const isSame = (one, other) => one && other && one.rows === other.rows && one.tokens === other.tokens;

function summary({rows, files, average_loss, backward_transfer, worst_file, names}) {
  const last = rows.at(-1);
  if (!last) return "No job was evaluated yet. It needs held-out rows ([data] holdout) or questions in evaluation/*.jsonl.";
  const worst = files.find((each) => each.job === worst_file);
  return [
    average_loss !== null && `after ${last.name}: loss ${number(average_loss)} nats per token, the mean over ${files.length} files`,
    backward_transfer !== null && `backward transfer ${signed(backward_transfer)} (above 0: earlier files got better)`,
    worst && `most forgotten: ${names[worst.job]} (${signed(worst.forgetting)} above its best loss)`,
    last.questions.total > 0 && `${last.questions.right} of ${last.questions.total} questions right`,
    last.problem && `missing: ${last.problem}`,
  ].filter(Boolean).join("; ");
}

// A cell says its change in words and shows it as a color: orange is worse than the first score of the file, green better.
function cell(score, first) {
  const value = loss(score);
  if (value === null) return element("td", {className: "number", textContent: score ? String(score.loss) : ""});
  const change = isSame(score, first) && loss(first) !== null ? value - loss(first) : null;
  const made = element("td", {className: "number heat", textContent: value.toFixed(3) + (change ? ` (${signed(change)})` : "")});
  if (change) {
    made.dataset.tone = change > 0 ? "worse" : "better";
    made.style.setProperty("--strength", `${Math.round(45 * Math.min(1, Math.abs(change) / STRONG))}%`);
  }
  return made;
}

function drawMatrix({rows, files, names}) {
  const shown = files.slice(-FILES_SHOWN), jobs = shown.map((each) => each.job);
  const byJob = (row) => new Map(row.files.map((score) => [score.job, score]));
  const scores = rows.map(byJob);
  const firsts = new Map(jobs.map((job) => [job, scores.map((row) => row.get(job)).find(Boolean)]));
  const lines = rows.map((row, place) => element("tr", {}, element("th", {scope: "row", textContent: row.name}), ...jobs.map((job) => cell(scores[place].get(job), firsts.get(job)))));
  const heads = jobs.map((job) => element("th", {scope: "col", className: "number", textContent: names[job] ?? job.slice(0, 12)}));
  const more = [files.length > shown.length && `${files.length - shown.length} more files`, rows.length > ROWS_SHOWN && `${rows.length - ROWS_SHOWN} earlier rows`].filter(Boolean);
  const note = `Loss on held-out rows, nats per token; in parentheses the change since the first score.${more.length ? ` ${more.join(" and ")}: keepstep versions matrix --json` : ""}`;
  $("matrix").hidden = !rows.length;
  $("matrix").replaceChildren(element("caption", {textContent: note}),
    element("thead", {}, element("tr", {}, element("th", {scope: "col", textContent: "After"}), ...heads)), element("tbody", {}, ...lines.slice(-ROWS_SHOWN)));
}

function drawVersions({versions, verdicts, names}) {
  const known = new Map(versions.map((each) => [each.version, each]));
  const rows = Object.entries(verdicts).reverse().map(([version, verdict]) => {
    const {scores, comparison, worse, held, problem, failed} = known.get(version) ?? {};
    const changes = [...comparison?.changes ?? []].sort((a, b) => (typeof b.change === "number" ? b.change : Infinity) - (typeof a.change === "number" ? a.change : Infinity));
    const worst = changes[0];
    const right = scores?.questions.total ? `${scores.questions.right} of ${scores.questions.total}` : "";
    const before = comparison?.scores.questions.total ? ` (before: ${comparison.scores.questions.right})` : "";
    const interval = worst?.low === null || worst === undefined ? "" : ` (${signed(worst.low)} to ${signed(worst.high)})`;
    const why = held || worse || failed || problem || "";
    return [version, VERDICTS[verdict], right + before, worst ? `${names[worst.job] ?? worst.job.slice(0, 12)}: ${signed(worst.change)}${interval}` : "", why, scores?.questions.total && comparison ? flipsButton(comparison.parent ?? "origin", version) : ""];
  });
  $("verdicts").hidden = !rows.length;
  fillTable($("verdicts"), ["Version", "Verdict", "Questions right", "Worst file (95 % interval)", "Why", ""], rows);
}

function flipsButton(from, to) {
  const made = element("button", {textContent: "Flipped questions", title: `Questions that flipped from ${from} to ${to}`});
  made.addEventListener("click", async () => {
    try {
      const {questions} = await get(`/api/difference?${new URLSearchParams({from, to})}`);
      showFlips(questions, from, to);
    } catch (error) {
      say(error.message);
    }
  });
  return made;
}

export function showFlips({questions, asked, problem}, from, to) {
  const rows = questions.map((each) => [each.prompt, each.expected, `${each.right ? "✗" : "✓"} ${each.before || "(nothing)"}`, `${each.right ? "✓" : "✗"} ${each.after || "(nothing)"}`]
    .map((text) => element("span", {className: "answer", textContent: text})));
  $("flips").hidden = false;
  fillTable($("flips"), ["Question", "Expected", from, to], rows);
  $("flips").prepend(element("caption", {textContent: problem || `${rows.length} of ${asked} questions flipped from ${from} to ${to}.`}));
}

export async function showEvaluation() {
  const shown = await get("/api/evaluation");
  replace("evaluation-note", summary(shown));
  drawMatrix(shown);
  drawVersions(shown);
}
