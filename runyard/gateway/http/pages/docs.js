// "Try it" in /docs: sends the request of a form, and shows the response. The key stays in the page:
// it is stored nowhere, and gone when the page is left.
"use strict";

const MOST = 100_000; // characters of a response that are shown

const field = (form, place) => [...form.querySelectorAll(`[data-in="${place}"]`)];
const filled = (form, place) => field(form, place).filter((input) => input.value !== "");

function address(form, key) {
  let path = form.dataset.path;
  for (const input of field(form, "path")) {
    const value = input.value || (input.name === "key" ? key || "none" : "");
    path = path.replace(`{${input.name}}`, encodeURIComponent(value));
  }
  const query = new URLSearchParams(filled(form, "query").map((input) => [input.name, input.value]));
  return query.size ? `${path}?${query}` : path;
}

function request(form, key, signal) {
  const headers = Object.fromEntries(filled(form, "header").map((input) => [input.name, input.value]));
  if (key && "secured" in form.dataset) headers.Authorization = `Bearer ${key}`;
  const [body] = field(form, "body");
  if (body?.value) headers["Content-Type"] = "application/json";
  return { method: form.dataset.method, headers, body: body?.value || undefined, signal, credentials: "omit" };
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

function shortened(text) {
  return text.length > MOST ? `${text.slice(0, MOST)}\n... and more` : text;
}

// A stream is shown as it comes, up to its end, the limit, or "Stop".
async function show(response, output) {
  const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (let piece; reader && !(piece = await reader.read()).done && text.length <= MOST; ) {
    text += piece.value;
    output.textContent = shortened(text);
  }
  reader?.cancel();
  output.textContent = shortened(pretty(text));
}

async function send(form, stop) {
  const [status, output] = [form.querySelector("[role=status]"), form.querySelector("pre")];
  const key = document.getElementById("key").value.trim();
  const aborted = new AbortController();
  stop.onclick = () => aborted.abort();
  stop.hidden = false;
  output.hidden = true;
  status.textContent = "Sending ...";
  try {
    const began = performance.now();
    const response = await fetch(address(form, key), request(form, key, aborted.signal));
    status.textContent = `${response.status} after ${Math.round(performance.now() - began)} ms`;
    output.textContent = "";
    output.hidden = false;
    await show(response, output);
  } catch (error) {
    if (error.name !== "AbortError") status.textContent = `No response: ${error.message}`;
    else status.textContent += " Stopped.";
  }
  stop.hidden = true;
}

document.getElementById("try").hidden = false;
for (const form of document.querySelectorAll("form[data-path]")) {
  form.hidden = false;
  const stop = form.querySelector("[data-stop]");
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send(form, stop);
  });
}
