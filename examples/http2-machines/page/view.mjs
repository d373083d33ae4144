// The changing parts of the page as HTML. The server and the script in the browser both use this file.

const special = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' }
const html = (text) => String(text).replace(/[&<>"']/g, (character) => special[character])

// Each state has a sign, because some readers cannot distinguish the colours.
const signs = { listening: '○', handshake: '◐', connected: '●', closing: '◍', gone: '×' }
const sign = (state) => `<span aria-hidden="true">${signs[state]}</span>`

const tile = ({ ref, state }) => `<li class="${state}">${sign(state)} ${ref}<span class="unseen"> ${state}</span></li>`

const figure = (value, label) => `<div><b>${html(value)}</b> ${html(label)}</div>`

const row = ({ ref, fd, peer, state, tls, alpn, requests, failure }) => `<tr>
<td>${ref}</td><td>${fd}</td><td>${html(peer)}</td><td>${html(tls ?? '')}</td><td>${html(alpn ?? '')}</td>
<td class="${state}">${sign(state)} ${state}</td><td>${html(failure ?? requests.join(', '))}</td></tr>`

export const title = ({ pool }) => `async-accept: ${pool.listening} machines listen`

/** The number of machines that have a connection. */
export const busy = ({ pool }) => pool.handshake + pool.connected + pool.closing

/** Returns the content of each changing element, by the id of the element. */
export function sections(status) {
  const { pool, machines, refs, backlog, stats, connections } = status
  return {
    figures: [
      figure(`${pool.listening} / ${pool.size}`, 'machines listen'),
      figure(busy(status), 'machines are busy'),
      figure(`${backlog.queued} / ${backlog.limit}`, 'clients in the backlog'),
      figure(stats.accepted, 'connections accepted'),
      figure(stats.capacityPauses, 'pauses for lack of fds'),
    ].join('\n'),
    states: ['listening', 'handshake', 'connected', 'closing']
      .map((state) => `${sign(state)} ${pool[state]} ${state}`)
      .join(' &rarr; '),
    machines: machines.map(tile).join(''),
    next: `${refs.length}; the next client gets the first`,
    refs: refs.join(', '),
    connections: connections.map(row).join('\n'),
  }
}
