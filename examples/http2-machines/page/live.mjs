// Runs in the browser: keeps the page up to date with the server-sent events of /events.
import { Chart } from './chart.mjs'
import { busy, sections, title } from './view.mjs'

const element = (id) => document.getElementById(id)
const chart = new Chart(element('chart'), element('legend'))
const shown = {}
let source

function show(status) {
  document.title = title(status)
  for (const [id, content] of Object.entries(sections(status))) {
    // Only what has changed, so that a selection or a screen reader's position elsewhere stays.
    if (shown[id] !== content) element(id).innerHTML = content
    shown[id] = content
  }
  chart.add({ 'outstanding refs': status.refs.length, 'busy machines': busy(status), backlog: status.backlog.queued })
  element('history').hidden = false
}

// A live region: a screen reader announces each change. The figures are none, because they change too often.
function say(text) {
  if (element('live').textContent !== text) element('live').textContent = text
}

function open() {
  let stopping = false
  element('pause').textContent = 'Pause'
  source = new EventSource('/events')
  source.onopen = () => {
    stopping = false // another server may have started
    say('Live: the page follows the server.')
  }
  source.onmessage = ({ data }) => show(JSON.parse(data))
  source.onerror = () => {
    // The browser tries again after a lost connection, but not after an answer other than 200.
    if (source.readyState === EventSource.CLOSED) say('Not live: the server has too many open pages. Reload to retry.')
    else if (!stopping) say('Connection lost. Trying again.')
  }
  source.addEventListener('stop', () => {
    stopping = true
    say('The server has stopped.')
  })
}

function close() {
  source.close()
  source = undefined
  element('pause').textContent = 'Resume'
  say('Paused.')
}

element('pause').onclick = () => (source ? close() : open())
element('pause').hidden = false
open()
