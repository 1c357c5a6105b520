// Live updates, relative times, copy buttons, and forms that are checked as they are filled in.
// Every page works without this script, except that it is not live.
"use strict";

// Updates leave open what the visitor has opened, and leave alone what is being typed.
const options = {
  ignoreActiveValue: true,
  callbacks: {
    beforeAttributeUpdated: (name, node) =>
      !(name === "open" && node instanceof HTMLDetailsElement),
  },
};

// A text that is being written stays at its end, unless the visitor has scrolled up.
function morph(element, html, style) {
  const atEnd = (text) => text.scrollTop + text.clientHeight > text.scrollHeight - 24;
  const left = [...element.querySelectorAll("[data-follow]")].filter((text) => !atEnd(text));
  Idiomorph.morph(element, html, { ...options, morphStyle: style });
  for (const text of element.querySelectorAll("[data-follow]")) {
    if (!left.includes(text)) text.scrollTop = text.scrollHeight;
  }
  showTimes();
  showClocks();
}

// A stream is open only while the page is visible: browsers open at most six connections to a host.
// On a page without a live part it brings only whether the project's code loads.
function keepLive(element, problem) {
  let source = null;
  const update = () => {
    if (document.hidden) {
      source?.close();
      source = null;
    } else if (source === null) {
      source = new EventSource(element ? location.pathname + location.search : "/dev/code");
      source.addEventListener("code", (message) => morph(problem, message.data, "innerHTML"));
      if (element === null) return;
      source.onmessage = (message) => morph(element, message.data, "innerHTML");
      source.onopen = () => element.removeAttribute("data-away");
      source.onerror = () => element.setAttribute("data-away", "");
    }
  };
  document.addEventListener("visibilitychange", update);
  update();
}

const units = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];
const relative = new Intl.RelativeTimeFormat("en", { numeric: "always", style: "short" });

function showTimes() {
  const now = Date.now();
  for (const element of document.querySelectorAll("time[data-ago], time[data-in]")) {
    const seconds = (new Date(element.dateTime).getTime() - now) / 1000;
    const [unit, size] = units.find(([, size]) => Math.abs(seconds) >= size) ?? units.at(-1);
    element.title = new Date(element.dateTime).toLocaleString();
    const amount = Math.trunc(seconds / size) || (seconds > 0 ? 0 : -0);
    element.textContent = relative.format(amount, unit);
  }
}

// Times stand there in UTC, for browsers without scripts.
const clocks = { hour: "2-digit", minute: "2-digit" };
const exact = { ...clocks, second: "2-digit", fractionalSecondDigits: 3 };

function showClocks() {
  for (const element of document.querySelectorAll("time[data-clock], time[data-second], time[data-exact], time[data-at]")) {
    const at = new Date(element.dateTime);
    if ("at" in element.dataset) element.textContent = at.toLocaleString();
    else if ("clock" in element.dataset) element.textContent = at.toLocaleTimeString([], clocks);
    else if ("exact" in element.dataset) element.textContent = at.toLocaleTimeString([], exact);
    else element.textContent = at.toLocaleTimeString();
    element.title = `${at.toLocaleString()} (${at.toISOString().slice(0, 19).replace("T", " ")} UTC)`;
  }
}

async function copy(button) {
  await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
  const label = button.firstChild;
  label.textContent = "Copied";
  setTimeout(() => { label.textContent = "Copy"; }, 1500);
}

// The server renders the page with the problems and the code; only those parts are replaced.
function checkAsTyped(form) {
  let timer = 0;
  let latest = 0;
  const check = async () => {
    const number = ++latest;
    const fields = new URLSearchParams(new FormData(form));
    fields.set("do", "check");
    const response = await fetch(form.action, { method: "POST", body: fields });
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    if (number !== latest) return;
    for (const element of document.querySelectorAll("[data-fresh]")) {
      const fresh = page.getElementById(element.id);
      if (fresh) morph(element, fresh.innerHTML, "innerHTML");
    }
    for (const field of form.querySelectorAll("[aria-describedby]")) {
      const invalid = page.getElementById(field.id)?.hasAttribute("aria-invalid");
      if (invalid) field.setAttribute("aria-invalid", "true");
      else field.removeAttribute("aria-invalid");
    }
  };
  form.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(check, 300);
  });
}

// A file is the whole body of its request; the response is what goes into the field.
async function upload(input) {
  const said = input.closest(".upload").querySelector("output");
  const [file] = input.files;
  if (!file) return;
  const field = document.getElementById(input.dataset.upload);
  said.textContent = `Uploading ${file.name} ...`;
  try {
    const response = await fetch(`/dev/uploads?name=${encodeURIComponent(file.name)}`, {
      method: "POST",
      headers: { "X-Runyard-Token": input.form.elements.token.value, "Content-Type": "application/octet-stream" },
      body: file,
    });
    const answer = await response.json();
    if (!response.ok) throw new Error(answer.error);
    field.value = answer.value;
    said.textContent = `Uploaded ${file.name}.`;
    field.dispatchEvent(new Event("input", { bubbles: true }));
  } catch (error) {
    said.textContent = `Not uploaded: ${error.message}`;
  }
}

for (const input of document.querySelectorAll("[data-upload]")) {
  input.closest(".upload").hidden = false;
  input.addEventListener("change", () => upload(input));
  // The same file may have changed: only then it counts as chosen again.
  input.addEventListener("click", () => { input.value = ""; });
}

const problem = document.getElementById("code-problem");
if (problem) keepLive(document.querySelector("[data-live]"), problem);
for (const form of document.querySelectorAll("form[data-preview]")) checkAsTyped(form);
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-copy]");
  if (button) copy(button);
});
for (const text of document.querySelectorAll("[data-follow]")) text.scrollTop = text.scrollHeight;
showTimes();
showClocks();
setInterval(showTimes, 1000);
