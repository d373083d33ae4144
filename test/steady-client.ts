import assert from 'node:assert/strict'
import { once } from 'node:events'
import http from 'node:http'
import { text } from 'node:stream/consumers'
import { cleanUp } from './helpers.js'

/** Makes requests one after the other until `end()`, and throws when one fails. It does not retry. */
export class SteadyClient {
  readonly servers = new Map<string, number>()
  reused = 0
  readonly #agent: http.Agent
  readonly #port: number
  readonly #method: string
  #end = false

  constructor(port: number, keepAlive: boolean, method = 'GET') {
    this.#port = port
    this.#method = method
    this.#agent = new http.Agent({ keepAlive, maxSockets: 1 })
    cleanUp(() => this.#agent.destroy())
  }

  async run(): Promise<void> {
    while (!this.#end) {
      const options = { host: '127.0.0.1', port: this.#port, agent: this.#agent, method: this.#method }
      const request = http.request(options).end(this.#method === 'GET' ? undefined : 'body')
      const [response] = await once(request, 'response')
      const answer = await text(response)
      assert.equal(response.statusCode, 200)
      this.servers.set(answer, (this.servers.get(answer) ?? 0) + 1)
      if (request.reusedSocket) this.reused++
    }
  }

  end(): void {
    this.#end = true
  }
}
