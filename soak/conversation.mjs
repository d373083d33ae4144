// A server's side of the dialect of lines.
import { bytesFor } from './protocol.mjs'

/** ms for which a client may be silent: long enough for those that mean well on a machine that is busy otherwise. */
export const patience = 5_000

/** Answers a client until one side ends it. The result says goodbye, after what was asked so far. */
export function converse(socket, entry, refuse) {
  const asked = []
  let text = ''
  let answering = false
  let leaving = false
  const next = () => {
    if (answering || socket.writableEnded || socket.destroyed) return
    const line = asked.shift()
    if (line === undefined) {
      if (leaving) socket.end()
      return
    }
    const [, word, length, wait] = /^(get|last) (\d+) (\d+)$/.exec(line) ?? []
    if (word === undefined) {
      refuse('bad request')
      socket.destroy()
      return
    }
    answering = true
    setTimeout(() => {
      if (word === 'last') leaving = true
      socket.write(bytesFor(entry.id, Number(length)), (error) => {
        answering = false
        if (error) return
        entry.answered++
        next()
      })
    }, Number(wait))
  }
  socket.on('error', () => {})
  socket.setTimeout(patience, () => {
    // It has been told everything, and may take its time to read it.
    if (socket.writableEnded) return
    refuse('silent too long')
    socket.destroy()
  })
  socket.on('data', (chunk) => {
    text += chunk
    const lines = text.split('\n')
    text = lines.pop()
    asked.push(...lines)
    next()
  })
  socket.on('end', () => {
    leaving = true
    next()
  })
  return () => {
    leaving = true
    next()
  }
}
