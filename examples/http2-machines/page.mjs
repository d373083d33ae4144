// The HTML page at `/`: the status of the pool.

const special = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' }
const html = (text) => String(text).replace(/[&<>"']/g, (character) => special[character])

const tile = ({ ref, state }) => `<li class="${state}" title="ref ${ref}: ${state}">${ref}</li>`

const figure = (value, label) => `<div><b>${html(value)}</b>${html(label)}</div>`

const row = ({ ref, fd, peer, state, tls, alpn, requests, failure }) => `<tr>
<td>${ref}</td><td>${fd}</td><td>${html(peer)}</td><td>${html(tls ?? '')}</td><td>${html(alpn ?? '')}</td>
<td><span class="${state}">${state}</span></td><td>${html(failure ?? requests.join(', '))}</td></tr>`

const style = `
:root { color-scheme: light dark; --line: #8884; --soft: #8888;
  --listening: #2a9d5c; --handshake: #d98e04; --connected: #2f7de1; --closing: #9b5de5; --gone: #888 }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 3rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem; margin: 0 } h2 { font-size: 1rem; margin: 2.2rem 0 .6rem }
p { margin: .4rem 0; max-width: 44rem } small, th { color: var(--soft); font-weight: normal }
ul { list-style: none; display: flex; flex-wrap: wrap; gap: .4rem; padding: 0; margin: 0 }
li { min-width: 2.6rem; padding: .45rem .3rem; text-align: center; color: #fff; border-radius: .4rem;
  font-variant-numeric: tabular-nums }
.figures { display: flex; flex-wrap: wrap; gap: 2.5rem; margin-top: 1.4rem }
.figures div { color: var(--soft) } .figures b { display: block; font-size: 1.7rem; line-height: 1.2; color: CanvasText }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums } .wide { overflow-x: auto }
th, td { text-align: left; padding: .35rem .9rem .35rem 0; border-bottom: 1px solid var(--line); white-space: nowrap }
td:last-child { white-space: normal; overflow-wrap: anywhere }
td span::before { content: '\\25CF\\00A0' }
${['listening', 'handshake', 'connected', 'closing', 'gone']
  .map((state) => `li.${state} { background: var(--${state}) } span.${state} { color: var(--${state}) }`)
  .join('\n')}
`

export const contentSecurityPolicy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

/** Returns the HTML page for a result of `status()`. */
export function page({ pool, machines, refs, backlog, stats, connections }) {
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>async-accept: ${pool.listening} machines listen</title>
<style>${style}</style>
<h1>HTTP/2 from a pool of state machines</h1>
<p>Each machine below has requested one connection from the listener, under its own ref. When a machine gets its connection,
a new machine takes its place; then it upgrades the connection to TLS and serves it. Reload to see the refs change.</p>
<div class="figures">
${figure(`${pool.listening} / ${pool.size}`, 'machines listen')}
${figure(pool.handshake + pool.connected + pool.closing, 'machines are busy')}
${figure(`${backlog.queued} / ${backlog.limit}`, 'clients in the backlog')}
${figure(stats.accepted, 'connections accepted')}
${figure(stats.capacityPauses, 'pauses for lack of fds')}
</div>
<h2>Machines <small>${['listening', 'handshake', 'connected', 'closing'].map((state) => `${pool[state]} ${state}`).join(' &rarr; ')}</small></h2>
<ul>${machines.map(tile).join('')}</ul>
<h2>Outstanding refs <small>${refs.length}; the next client gets the first</small></h2>
<p>${refs.join(', ')}</p>
<h2>Last connections</h2>
<div class="wide"><table>
<tr><th>ref</th><th>fd</th><th>peer</th><th>TLS</th><th>ALPN</th><th>state</th><th>requests</th></tr>
${connections.map(row).join('\n')}
</table></div>
<p><small>As JSON: <a href="/status">/status</a></small></p>
</html>
`
}
