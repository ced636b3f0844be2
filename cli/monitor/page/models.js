// Versions, checkpoints and backups: one timeline, what differs, and ways back.

import {$, confirmed, element, fillTable, get, moment, number, post, replace, say, size} from "./common.js";
import {showFlips} from "./evaluation.js";

const ORIGIN = "origin";

export async function showModels() {
  const {head, versions, checkpoints, backups, detached} = await get("/api/models");
  const isHead = (id) => id === (head.checkpoint ?? head.version);
  const row = (at, step, id, kind, bytes, note, restorable) => ({at, step, id, kind, bytes, note, restorable: restorable && !isHead(id)});
  const rows = [
    ...versions.map((each) => row(each.made_at, each.global_step, each.id, "version", each.size_bytes, each.description, true)),
    ...backups.map((each) => row(each.made_at, each.held.checkpoint.global_step, each.id, "backup", each.size_bytes, each.reason, true)),
    ...checkpoints.map((each) => row("", each.global_step, each.id, "checkpoint", each.size_bytes, "", false)),
    ...detached.map(({checkpoint}) => row("", checkpoint.global_step, checkpoint.id, "detached checkpoint", checkpoint.size_bytes, "the head moved away from it", true)),
  ].sort((a, b) => b.step - a.step);
  const name = ({id}) => id + (isHead(id) ? " (head)" : id === head.version ? " (base of the head)" : "");
  const restore = ({id, restorable}) => restorable ? moveButton("Restore", "restore", {target: id}, id) : "";
  fillTable($("models"), ["Step", "Name", "Kind", "Made", "Size", "Note", ""], rows.map((each) => [each.step, name(each), each.kind, each.at && moment(each.at), size(each.bytes), each.note, restore(each)]));
  if (!rows.length) replace("models", element("caption", {textContent: "Nothing is committed yet."}));
  $("roll-back").disabled = head.checkpoint === null && head.version === null;
  $("compare").hidden = !versions.length;
  const names = [ORIGIN, ...versions.map((each) => each.id)];
  offer("compare-from", names, names.at(-2));
  offer("compare-to", names, names.at(-1));
}

function offer(id, names, chosen) {
  const list = $(id), before = list.value;
  if ([...list.options].map((each) => each.value).join() === names.join()) return;
  list.replaceChildren(...names.map((each) => element("option", {value: each, textContent: each})));
  list.value = names.includes(before) ? before : chosen;
}

function moveButton(label, action, body, name) {
  const made = element("button", {textContent: label, title: `${label}: ${name}`});
  made.addEventListener("click", () => move(action, body));
  return made;
}

// Ask the server what would happen, ask the user, then do it.
async function move(action, body) {
  try {
    const {done} = await post(`/api/actions/${action}`, {...body, preview: true});
    if (await confirmed(done)) say((await post(`/api/actions/${action}`, body)).done);
  } catch (error) {
    say(error.message);
  }
}

async function compare(event) {
  event.preventDefault();
  try {
    const query = new URLSearchParams({from: $("compare-from").value, to: $("compare-to").value});
    const {only, settings, questions} = await get(`/api/difference?${query}`);
    const parts = only.flatMap(({version, parts}) => parts.map((part) => [version, part.steps, part.file, part.rows]));
    fillTable($("difference"), ["Only in", "Steps", "File", "Rows"], parts);
    const changed = settings.length ? `Changed settings: ${settings.join("; ")}` : "The same settings.";
    if (questions.asked) showFlips(questions, $("compare-from").value, $("compare-to").value);
    $("difference").append(element("caption", {textContent: parts.length ? changed : `Both were trained on the same files. ${changed}`}));
  } catch (error) {
    replace("difference", element("caption", {textContent: error.message}));
  }
}

$("compare").addEventListener("submit", compare);
$("roll-back").addEventListener("click", () => move("rollback", {}));
