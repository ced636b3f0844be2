// Self-correction: the figures of its rounds, its files, and why it stopped. All text is set as text, never as HTML.

const ROUNDS_SHOWN = 100;

// `tools`: what app.js shares: get, fillTable, number.
export function makeCorrection({get, fillTable, number}) {
  const section = document.getElementById("correction");

  function summary({rounds, files, note}) {
    const last = rounds.at(-1), parts = [];
    if (last) parts.push(`round ${last.round} after step ${number(last.global_step)}: ${last.right} of ${last.answers} own answers right (${last.verifier})`);
    const file = files.at(-1);
    if (file) parts.push(file.job ? `${file.name}: ${file.rows} own rows, ${file.references + file.replayed} gold rows` : `${file.name} is to be queued`);
    if (note) parts.push(`${note.kind.replace("_", " ")}: ${note.message}${note.kind === "stopped" ? ". To start it again: keepstep self-correction resume" : ""}`);
    return parts.join("; ");
  }

  async function refresh() {
    const shown = await get("/api/self_correction");
    section.hidden = !shown.rounds.length && !shown.note;
    document.getElementById("correction-note").textContent = summary(shown);
    fillTable(document.getElementById("correction-table"), ["Round", "Step", "Base", "Right", "Distinct-2", "Tokens", "KL", "Rows"],
      shown.rounds.slice(-ROUNDS_SHOWN).reverse().map((each) => [each.round, each.global_step, each.base ?? "the first model", `${each.right} of ${each.answers}`,
        each.distinct.toFixed(2), each.mean_tokens.toFixed(1), each.kl === null ? "—" : each.kl.toFixed(3), each.rows]));
  }

  return {refresh};
}
