/**
 * The page without its data.
 */

/** Makes the document; all three texts are escaped. */
export const html = (
  { path, setting, title }: { readonly title: string; readonly path: string; readonly setting: string }
): string =>
  `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>${title}</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="${path}/page.css">
</head>
<body data-setting="${setting}">
<a class="skip" href="#main">Skip to the content</a>
<header>
<h1>${title}</h1>
<p id="status" role="status">Connecting</p>
<nav aria-label="Sections">
<a href="#dead-letters">Dead letters</a>
<a href="#subscriptions">Subscriptions</a>
<a href="#errors">Errors</a>
<a href="#alerts">Alerts</a>
<a href="#channels">Channels</a>
<a href="#health">Health</a>
</nav>
</header>
<main id="main">
<form id="login" hidden>
<label for="token">Access token</label>
<input id="token" type="password" autocomplete="off" required>
<button>Log in</button>
<p id="login-error" role="alert"></p>
</form>
<section id="dead-letters" aria-labelledby="h-dead-letters"><h2 id="h-dead-letters">Dead letters</h2><div></div></section>
<section id="subscriptions" aria-labelledby="h-subscriptions"><h2 id="h-subscriptions">Subscriptions</h2><div></div></section>
<section id="errors" aria-labelledby="h-errors"><h2 id="h-errors">Errors</h2><div id="trend" role="img"></div><div></div></section>
<section id="alerts" aria-labelledby="h-alerts"><h2 id="h-alerts">Alerts of the last 24 hours</h2><div></div></section>
<section id="channels" aria-labelledby="h-channels"><h2 id="h-channels">Channels</h2><div></div></section>
<section id="health" aria-labelledby="h-health"><h2 id="h-health">Health</h2><div></div></section>
</main>
<dialog id="ask" aria-labelledby="ask-title">
<form method="dialog">
<h2 id="ask-title"></h2>
<p id="ask-text"></p>
<label id="ask-label" for="ask-input"></label>
<input id="ask-input">
<p><button value="ok">Continue</button> <button value="cancel" formnovalidate>Cancel</button></p>
</form>
</dialog>
<noscript>The page needs JavaScript. The same data is at ${path}/dead-letters and ${path}/events.</noscript>
<script src="${path}/plot.js"></script>
<script src="${path}/page.js"></script>
</body>
</html>
`
