"use strict";
// The console works without this file. It keeps pages current, takes keys in the review, and reads selections as answers.

// A page with [data-refresh] asks for itself every so many seconds, and takes over the part with that attribute; not while one of
// its links or buttons has the focus. With [data-events], it asks when the server tells of something new, and seldom otherwise.
const SELDOM = 5;
let timer, events;
async function refresh() {
  clearTimeout(timer);
  const now = document.querySelector("[data-refresh]");
  if (!now) return;
  const busy = now.contains(document.activeElement) && document.activeElement.matches("a, button, summary");
  if (!document.hidden && !busy) {
    try {
      const answer = await fetch(location.href, { headers: { accept: "text/html" } });
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById(now.id);
      if (answer.ok && fresh) takeOver(now, fresh);
    } catch { /* the service is away for a moment: the next look may find it */ }
  }
  later();
}

function later() {
  const seconds = Number(document.querySelector("[data-refresh]")?.dataset.refresh);
  clearTimeout(timer);
  if (seconds) timer = setTimeout(refresh, 1000 * (events?.readyState === EventSource.OPEN ? Math.max(seconds, SELDOM) : seconds));
}

function listen() {
  const url = document.querySelector("[data-events]")?.dataset.events;
  if (!url) return;
  events = new EventSource(url);
  // Of several events within a second, the first loads the page, and all others together load it once more.
  let loading = false, again = false;
  const changed = async () => {
    if (loading) { again = true; return; }
    loading = true;
    do {
      again = false;
      await refresh();
      await new Promise((done) => setTimeout(done, 1000));
    } while (again);
    loading = false;
  };
  events.addEventListener("progress", changed);
  events.addEventListener("end", () => { events.close(); changed(); });
  events.addEventListener("open", later);
  events.addEventListener("error", later);
}

// What scrolls stays where the reader left it and keeps the focus; whoever is at the end of a log stays at its end.
function takeOver(now, fresh) {
  const left = [...now.querySelectorAll("[tabindex]")].map((area) => ({
    across: area.scrollLeft,
    down: area.scrollTop,
    atEnd: area.matches("[data-tail]") && area.scrollTop + area.clientHeight >= area.scrollHeight - 2,
    focused: area === document.activeElement,
  }));
  now.replaceWith(fresh);
  showTails(fresh);
  [...fresh.querySelectorAll("[tabindex]")].slice(0, left.length).forEach((area, place) => {
    area.scrollLeft = left[place].across;
    if (!left[place].atEnd) area.scrollTop = left[place].down;
    if (left[place].focused) area.focus({ preventScroll: true });
  });
}

function showTails(part) {
  part.querySelectorAll("[data-tail]").forEach((log) => { log.scrollTop = log.scrollHeight; });
}

// What happened while nobody looked is shown at once.
document.addEventListener("visibilitychange", () => document.hidden || refresh());

showTails(document);
later();
listen();

// Keys press the button that names them. A key that is held down must not label the next text too, and Enter belongs to the
// button or link that has the focus.
document.addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input:not([type=checkbox]), textarea, select")) return;
  if (event.key === "Enter" && event.target.matches("a, button, summary")) return;
  const button = [...document.querySelectorAll("[data-key]")].find((it) => it.dataset.key === event.key);
  if (button) {
    event.preventDefault();
    button.click();
  }
});

// What is selected in [data-selectable] becomes the value of the field that it names, with its place in code points.
const selectable = document.querySelector("[data-selectable]");
selectable?.addEventListener("mouseup", () => {
  const selection = getSelection();
  if (!selection.rangeCount || selection.isCollapsed) return;
  const range = selection.getRangeAt(0);
  if (!selectable.contains(range.commonAncestorContainer)) return;
  const before = document.createRange();
  before.setStart(selectable, 0);
  before.setEnd(range.startContainer, range.startOffset);
  const text = (part) => {
    const copy = part.cloneContents();
    copy.querySelectorAll("small").forEach((note) => note.remove());
    return copy.textContent;
  };
  const words = text(range);
  const start = [...text(before)].length + ([...words].length - [...words.trimStart()].length);
  document.getElementById(selectable.dataset.selectable).value = words.trim();
  document.getElementById(selectable.dataset.selectable + "-start").value = start;
});

// A link that is copied instead of followed.
document.querySelectorAll("[data-copy]").forEach((link) =>
  link.addEventListener("click", async (event) => {
    if (!navigator.clipboard) return;
    event.preventDefault();
    await navigator.clipboard.writeText(link.href);
    link.textContent = link.dataset.copy;
  }),
);
