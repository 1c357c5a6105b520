// Live parts, times that pass, copying, and a form that is checked as it is filled in. Every page works without it, but for the first.
"use strict";

// What the visitor has opened stays open, and what is being typed stays as it is.
const kept = {
  ignoreActiveValue: true,
  callbacks: { beforeAttributeUpdated: (name, node) => !(name === "open" && node instanceof HTMLDetailsElement) },
};

function morph(element, html, style) {
  Idiomorph.morph(element, html, { ...kept, morphStyle: style });
  showTimes();
}

// A stream is open only while the page is looked at: browsers open six connections to a host, and no more.
function keepFresh(element) {
  let source = null;
  const follow = () => {
    if (document.hidden) {
      source?.close();
      source = null;
    } else if (source === null) {
      source = new EventSource(location.pathname + location.search);
      source.onmessage = (message) => morph(element, message.data, "innerHTML");
      source.onopen = () => element.removeAttribute("data-away");
      source.onerror = () => element.setAttribute("data-away", "");
    }
  };
  document.addEventListener("visibilitychange", follow);
  follow();
}

const units = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];
const relative = new Intl.RelativeTimeFormat("en", { numeric: "always", style: "short" });

function showTimes() {
  const now = Date.now();
  for (const element of document.querySelectorAll("time[data-ago], time[data-in]")) {
    const seconds = (new Date(element.dateTime).getTime() - now) / 1000;
    const [unit, size] = units.find(([, size]) => Math.abs(seconds) >= size) ?? units.at(-1);
    element.title = new Date(element.dateTime).toLocaleString();
    element.textContent = relative.format(Math.trunc(seconds / size) || (seconds > 0 ? 0 : -0), unit);
  }
}

async function copy(button) {
  await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
  const label = button.firstChild;
  label.textContent = "Copied";
  setTimeout(() => { label.textContent = "Copy"; }, 1500);
}

// What is wrong, and the code, come from the server as the page would have them.
function checkAsTyped(form) {
  let timer = 0;
  let asked = 0;
  const check = async () => {
    const number = ++asked;
    const fields = new URLSearchParams(new FormData(form));
    fields.set("do", "check");
    const answer = await fetch(form.action, { method: "POST", body: fields });
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (number !== asked) return;
    for (const element of document.querySelectorAll("[data-fresh]")) {
      const fresh = page.getElementById(element.id);
      if (fresh) morph(element, fresh.innerHTML, "innerHTML");
    }
    for (const field of form.querySelectorAll("[aria-describedby]")) {
      if (page.getElementById(field.id)?.hasAttribute("aria-invalid")) field.setAttribute("aria-invalid", "true");
      else field.removeAttribute("aria-invalid");
    }
  };
  form.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(check, 300);
  });
}

for (const element of document.querySelectorAll("[data-live]")) keepFresh(element);
for (const form of document.querySelectorAll("form[data-preview]")) checkAsTyped(form);
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-copy]");
  if (button) copy(button);
});
showTimes();
setInterval(showTimes, 1000);
