// Server-sent events: each open page gets the status when it changes.
// https://html.spec.whatwg.org/multipage/server-sent-events.html

const limit = 50 // streams; each costs a connection and a copy of each update

export class EventStreams {
  #read
  #interval
  #heartbeat
  #streams = new Map() // each response, and the number of the update that it got last
  #timer // one for all streams, and none without a stream
  #update = 0
  #text
  #quiet = 0
  #ended = false

  /**
   * Sends the result of `read`, as JSON, at most once per `interval` (ms). After `heartbeat` intervals without a change
   * it sends a comment: the server closes a connection that is inactive for long.
   */
  constructor(read, { interval = 250, heartbeat = 120 } = {}) {
    this.#read = read
    this.#interval = interval
    this.#heartbeat = heartbeat
  }

  /** Makes an event stream of a response. Returns false if there are too many, or after end(). */
  add(response) {
    if (this.#ended || this.#streams.size >= limit) return false
    response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store' })
    response.write('retry: 1000\n\n') // ms until a page connects again
    this.#streams.set(response, undefined)
    response.on('error', () => {}) // 'close' follows
    response.once('close', () => this.#remove(response))
    this.#send()
    this.#timer ??= setInterval(() => this.#send(), this.#interval)
    return true
  }

  /** Ends all streams. */
  end() {
    this.#ended = true
    for (const response of this.#streams.keys()) response.end('event: stop\ndata:\n\n')
  }

  #remove(response) {
    this.#streams.delete(response)
    if (this.#streams.size > 0) return
    clearInterval(this.#timer)
    this.#timer = undefined
  }

  #send() {
    const text = JSON.stringify(this.#read())
    if (text !== this.#text) {
      this.#text = text
      this.#update++
    }
    for (const [response, update] of this.#streams) {
      // A client that has not received an update yet skips the next ones: only the newest status matters.
      if (update === this.#update || response.writableLength > 0 || response.writableEnded) continue
      response.write(`data: ${text}\n\n`)
      this.#streams.set(response, this.#update)
      this.#quiet = 0
    }
    if (++this.#quiet < this.#heartbeat) return
    this.#quiet = 0
    for (const response of this.#streams.keys()) if (!response.writableEnded) response.write(':\n\n')
  }
}
