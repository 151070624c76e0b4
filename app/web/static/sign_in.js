// A session that ends under an open page: somebody signs in over it, and what they wanted to send
// is sent. The page stays as it is filled in.

let dialog;

// Returns whether a session stands; throws where there is no answer. The page it asks for costs the
// service little.
export async function isSignedIn() {
  const options = { method: "HEAD", redirect: "manual", cache: "no-store" };
  const answer = await fetch("/settings/webhooks", options);
  if (answer.status >= 500) throw new Error(`The service answered ${answer.status}.`);
  return answer.type !== "opaqueredirect" && answer.status !== 401;
}

// Resolves to whether somebody has signed in.
export function askToSignIn() {
  dialog ??= open();
  return dialog;
}

function open() {
  return new Promise((resolve) => {
    const box = document.createElement("dialog");
    box.className = "confirm sign-in-over";
    box.setAttribute("aria-labelledby", "sign-in-over-title");
    box.innerHTML = `
      <form method="dialog">
        <h2 id="sign-in-over-title">Your session has ended</h2>
        <p>Sign in to go on. What you typed stays on this page.</p>
        <p class="at-provider" hidden><a class="button" href="/sign-in/oidc" target="_blank"
          rel="noopener"></a> in another tab, come back and continue, or use a key:</p>
        <label for="sign-in-over-key">API key</label>
        <input id="sign-in-over-key" type="password" autocomplete="current-password" required
          autofocus>
        <p class="error small field-error" role="alert"></p>
        <p class="row"><button class="primary">Sign in</button>
          <button type="button" class="quiet">Cancel</button></p>
      </form>`;
    if (document.body.dataset.provider) offerProvider(box, document.body.dataset.provider);
    const error = box.querySelector("[role=alert]");
    let isDone = false;
    box.querySelector("form").addEventListener("submit", async (event) => {
      event.preventDefault();
      error.textContent = "";
      const key = box.querySelector("input").value;
      error.textContent = await (key ? signIn(key) : takeSession());
      isDone = error.textContent === "";
      if (isDone) box.close();
    });
    box.querySelector("button.quiet").addEventListener("click", () => box.close());
    box.addEventListener("close", () => {
      box.remove();
      dialog = undefined;
      resolve(isDone);
    });
    document.body.append(box);
    box.showModal();
  });
}

// Offers a sign-in that another tab does; the key is then one of two ways.
function offerProvider(box, name) {
  box.querySelector(".at-provider").hidden = false;
  box.querySelector(".at-provider a").textContent = `Sign in with ${name}`;
  box.querySelector("input").required = false;
  box.querySelector("button.primary").textContent = "Continue";
}

// Begins a session; returns what is wrong.
function signIn(key) {
  const body = new URLSearchParams({ key, next: "/settings" });
  return takeToken(() => fetch("/sign-in", { method: "POST", body }));
}

// Takes up the session that another tab has begun; returns what is wrong.
function takeSession() {
  return takeToken(async () => {
    if (await isSignedIn()) return fetch("/settings");
    return new Response('<p role="alert">You are not signed in yet.</p>', { status: 401 });
  });
}

// Gives the forms of this page the token of the page that is answered; returns what is wrong.
async function takeToken(ask) {
  try {
    const answer = await ask();
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const token = page.querySelector("input[name=csrf]")?.value;
    if (!answer.ok || !token)
      return page.querySelector("[role=alert]")?.textContent ?? "Something went wrong.";
    const project = projectOf(page);
    if (project.title !== projectOf(document).title) {
      const name = project.querySelector("span:nth-of-type(2)").textContent;
      return `You are signed in to ${name}, but this page is of another project. Go to that one in \
another tab, or use a key of it.`;
    }
    for (const input of document.querySelectorAll("[name=csrf]")) input.value = token;
    for (const part of document.querySelectorAll("[data-token]")) part.dataset.token = token;
    return "";
  } catch {
    return "The service does not answer.";
  }
}

function projectOf(page) {
  return page.querySelector("button.project");
}
