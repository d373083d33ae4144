// The HTML page at `/`. page/live.mjs updates it in the browser; without a script it shows the status when it was loaded.
import { sections, title } from './page/view.mjs'

export const contentSecurityPolicy = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "connect-src 'self'",
  'img-src data:',
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join('; ')

/** Returns the HTML page for a status of the pool. */
export function page(status) {
  const { figures, states, machines, next, refs, connections } = sections(status)
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>${title(status)}</title>
<link rel="stylesheet" href="/style.css">
<script type="module" src="/live.mjs"></script>
</head>
<body>
<main>
<h1>HTTP/2 from a pool of state machines</h1>
<p>Each machine below has requested one connection from the listener, under its own ref. When a machine gets its
connection, a new machine takes its place; then it upgrades the connection to TLS and serves it.</p>
<noscript><p>This page updates itself only with JavaScript. Reload it to see the refs change.</p></noscript>
<p class="live"><span id="live" role="status"></span> <button id="pause" type="button" hidden>Pause</button></p>
<div class="figures" id="figures">${figures}</div>
<figure id="history" hidden>
<svg id="chart" role="img" aria-label="" viewBox="0 0 600 120" preserveAspectRatio="none"></svg>
<figcaption id="legend"></figcaption>
</figure>
<h2>Machines <small id="states">${states}</small></h2>
<ul id="machines" aria-label="Machines">${machines}</ul>
<h2>Outstanding refs <small id="next">${next}</small></h2>
<p id="refs">${refs}</p>
<h2 id="last">Last connections</h2>
<div class="wide" role="region" aria-labelledby="last" tabindex="0"><table>
<thead><tr>${['ref', 'fd', 'peer', 'TLS', 'ALPN', 'state', 'requests'].map((name) => `<th scope="col">${name}</th>`).join('')}</tr></thead>
<tbody id="connections">${connections}</tbody>
</table></div>
<p><small>As JSON: <a href="/status">/status</a></small></p>
</main>
</body>
</html>
`
}
