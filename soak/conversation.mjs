// The server side of the 'lines' dialect.
import { bytesFor } from './protocol.mjs'

/** The time that a client may be silent, in ms: long enough for a well-behaved client on a busy machine. */
export const patience = 5_000

/** Answers a client until one side ends. Returns a function that ends the connection after the pending requests. */
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
    // Everything has been sent. The client may read it slowly.
    if (socket.writableEnded) return
    refuse('idle timeout')
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
