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
        <label for="sign-in-over-key">API key</label>
        <input id="sign-in-over-key" type="password" autocomplete="current-password" required
          autofocus>
        <p class="error small field-error" role="alert"></p>
        <p class="row"><button class="primary">Sign in</button>
          <button type="button" class="quiet">Cancel</button></p>
      </form>`;
    const error = box.querySelector("[role=alert]");
    let isDone = false;
    box.querySelector("form").addEventListener("submit", async (event) => {
      event.preventDefault();
      error.textContent = "";
      error.textContent = await signIn(box.querySelector("input").value);
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

// Begins a session, whose token the forms of this page have from then on; returns what is wrong.
async function signIn(key) {
  try {
    const body = new URLSearchParams({ key, next: "/settings" });
    const answer = await fetch("/sign-in", { method: "POST", body });
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const token = page.querySelector("input[name=csrf]")?.value;
    if (!answer.ok || !token)
      return page.querySelector("[role=alert]")?.textContent ?? "Something went wrong.";
    for (const input of document.querySelectorAll("[name=csrf]")) input.value = token;
    for (const part of document.querySelectorAll("[data-token]")) part.dataset.token = token;
    return "";
  } catch {
    return "The service does not answer.";
  }
}
