// The protocol between clients and servers, and how a server identifies a client.

// The source address of a client encodes its number. The server therefore knows the number before the first byte, and
// after the client has disconnected. 127.0.0.0/16 is reserved for other uses.
const firstId = 1 << 16
const idCount = (254 << 16) - firstId

/** The number of the nth client. Numbers are reused after about 16 million clients, long after their first use. */
export const idFor = (n) => firstId + (n % idCount)
export const addressOf = (id) => `127.${id >> 16}.${(id >> 8) & 255}.${id & 255}`
export const idOf = (address) => {
  const [, high, middle, low] = address.split('.').map(Number)
  return (high << 16) | (middle << 8) | low
}

export const longest = 512 * 1024
const starts = 65_521

// Two concurrent clients are unlikely to expect the same bytes, so a response to the wrong client is detected.
const pattern = Buffer.alloc(longest + starts)
for (let i = 0, state = 1; i < pattern.length; i++) {
  state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0
  pattern[i] = state >>> 16
}

/** The response to a client with this number that requests `length` bytes. */
export const bytesFor = (id, length) => pattern.subarray(id % starts, (id % starts) + length)

/** Two ways to request `length` bytes after `wait` ms. With `last` the server then ends the connection. */
export const dialects = {
  lines: {
    request: (length, { wait = 0, last = false } = {}) => `${last ? 'last' : 'get'} ${length} ${wait}\n`,
    malformed: 'what?\n',
    head: undefined,
  },
  http: {
    request: (length, { wait = 0, last = false } = {}) =>
      `GET /${length}/${wait} HTTP/1.1\r\nHost: soak\r\n${last ? 'Connection: close\r\n' : ''}\r\n`,
    malformed: 'what?\r\n\r\n',
    head: '\r\n\r\n',
  },
}

/** A PROXY protocol header, version 1 or 2, for a client with this number. */
export function proxyHeader(version, id, port) {
  if (version === 1) return Buffer.from(`PROXY TCP4 ${addressOf(id)} 127.0.0.1 ${port} 80\r\n`)
  const header = Buffer.from('0d0a0d0a000d0a515549540a2111000c', 'hex')
  const address = (text) => text.split('.').map(Number)
  return Buffer.concat([header, Buffer.from([...address(addressOf(id)), 127, 0, 0, 1, port >> 8, port & 255, 0, 80])])
}

/** The timeout of a drain, in ms, after which it destroys the remaining connections. */
export const drainTimeout = 1_500

/** The time, in ms, after which a drain ends connections that have sent no request. */
export const unusedGrace = 1_000

/** Random numbers from a seed (xorshift32), so that a run can be repeated with the same choices. */
export function random(seed) {
  let state = Math.imul(seed + 1, 0x9e3779b1) | 1
  const next = () => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return (state >>> 0) / 2 ** 32
  }
  return {
    below: (count) => Math.floor(next() * count),
    between: (least, most) => least + Math.floor(next() * (most - least + 1)),
    of: (choices) => choices[Math.floor(next() * choices.length)],
    /** Returns one of the choices, which are pairs [choice, weight]. */
    weighed: (choices) => {
      let at = next() * choices.reduce((sum, [, weight]) => sum + weight, 0)
      for (const [choice, weight] of choices) {
        at -= weight
        if (at < 0) return choice
      }
      return choices[0][0]
    },
  }
}
