// What a page of another site can try against a developer's Runyard. Each takes its address, and gives what the page learns of the outcome.
({
  "an image": (url, { launch }) =>
    new Promise((done) => {
      const image = new Image();
      image.onload = image.onerror = (outcome) => done(outcome.type);
      image.src = `${url}/graphql?query=${encodeURIComponent(launch)}`;
    }),
  "a script": (url) =>
    new Promise((done) => {
      const script = document.createElement("script");
      script.onload = script.onerror = (outcome) => done(outcome.type);
      script.src = `${url}/api/events`;
      document.head.append(script);
    }),
  "a form": (url, { event }) =>
    new Promise((done) => {
      const target = Object.assign(document.createElement("iframe"), { name: "target" });
      document.body.append(target);
      target.onload = () => done("load");
      // A form of text/plain sends name=value: together they are an event.
      const field = Object.assign(document.createElement("input"), { name: `${JSON.stringify(event).slice(0, -1)}, "v": "`, value: '"}' });
      const form = Object.assign(document.createElement("form"), { method: "POST", enctype: "text/plain", target: "target", action: `${url}/e/x` });
      form.append(field);
      document.body.append(form);
      form.submit();
    }),
  "a fetch that cannot read": (url, { bounce }) =>
    fetch(`${url}/webhooks/sendgrid`, { method: "POST", mode: "no-cors", body: JSON.stringify(bounce) }).then((answer) => answer.type),
  "a fetch of GraphQL": (url, { launch }) =>
    fetch(`${url}/graphql`, { method: "POST", mode: "no-cors", body: JSON.stringify({ query: launch }) }).then((answer) => answer.type),
  "a fetch that wants to read": (url) => fetch(`${url}/api/events`).then((answer) => answer.text(), () => "error"),
  "a fetch with JSON": (url, { event }) =>
    fetch(`${url}/e/x`, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(event) }).then(
      (answer) => answer.text(),
      () => "error",
    ),
  "a beacon": (url, { event }) => Promise.resolve(navigator.sendBeacon(`${url}/e/x`, JSON.stringify(event)) ? "sent" : "refused"),
  "a socket": (url) =>
    new Promise((done) => {
      const socket = new WebSocket(`${url.replace("http", "ws")}/graphql`, "graphql-ws");
      socket.onopen = () => done("open");
      socket.onerror = () => done("error");
    }),
  "an event source": (url) =>
    new Promise((done) => {
      const source = new EventSource(`${url}/dev`);
      source.onopen = () => done("open");
      source.onerror = () => done("error");
    }),
  "a frame": (url) =>
    new Promise((done) => {
      const frame = Object.assign(document.createElement("iframe"), { src: `${url}/` });
      frame.onload = () => done("load");
      document.body.append(frame);
    }),
})
