// A client that calls the https server with http://. A TLS handshake would fail without a hint at the reason.
import { authority } from './names.mjs'

const patience = 5_000 // ms; how long a client may take to read the answer and to close

/**
 * Resolves with whether the client sends plain HTTP: a method begins with a letter, a TLS record with the byte 22. The
 * byte stays in the socket.
 */
export async function speaksPlainHttp(connection, { timeout, signal }) {
  const first = await connection.peek(1, { timeout, signal })
  return /^[A-Z]/.test(first.toString('latin1'))
}

/** Answers with one line of text. Takes the connection, and returns its socket. */
export function refusePlainHttp(connection) {
  const url = `https://${authority(connection.localAddress, connection.localPort)}/`
  const line = `This is an https server; call it with https instead of http: curl -k ${url}\n`
  const socket = connection.toSocket()
  socket.on('error', () => {}) // 'close' follows
  socket.end(
    'HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close\r\n' +
      `content-length: ${line.length}\r\n\r\n${line}`,
  )
  // If a socket is closed while received data is unread, the kernel sends a reset, which can destroy the answer.
  socket.resume()
  const deadline = setTimeout(() => socket.destroy(), patience)
  return socket.once('close', () => clearTimeout(deadline))
}
