import assert from 'node:assert/strict'
import { once } from 'node:events'
import { promisify } from 'node:util'
import * as grpc from '@grpc/grpc-js'
import { type Serving, serve } from '../../src/index.js'
import { certificates } from '../certificates.js'
import { cleanUp, listen, target } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { cutOffAtTheEnd, Gate } from './served.js'

const plain = {
  requestSerialize: (message: string) => Buffer.from(message),
  requestDeserialize: String,
  responseSerialize: (message: string) => Buffer.from(message),
  responseDeserialize: String,
}

const definition = {
  greet: { ...plain, path: '/test.Greeter/Greet', requestStream: false, responseStream: false },
  chat: { ...plain, path: '/test.Greeter/Chat', requestStream: true, responseStream: true },
  held: { ...plain, path: '/test.Greeter/Held', requestStream: false, responseStream: false },
}

interface Kind {
  serverCredentials: grpc.ServerCredentials
  clientCredentials: grpc.ChannelCredentials
}

const kinds: Record<string, () => Kind | Promise<Kind>> = {
  'without TLS': () => ({
    serverCredentials: grpc.ServerCredentials.createInsecure(),
    clientCredentials: grpc.credentials.createInsecure(),
  }),
  'with TLS': async () => {
    const { ca, localhost } = await certificates()
    const pair = { private_key: Buffer.from(localhost.key), cert_chain: Buffer.from(localhost.cert) }
    return {
      serverCredentials: grpc.ServerCredentials.createSsl(null, [pair]),
      clientCredentials: grpc.credentials.createSsl(Buffer.from(ca.cert)),
    }
  },
}

for (const [kind, make] of Object.entries(kinds)) {
  describe(`serve() with the connection injector of grpc-js, ${kind}`, () => {
    leaveNoFds()

    async function start() {
      const { serverCredentials, clientCredentials } = await make()
      const gate = new Gate()
      const server = new grpc.Server()
      server.addService(definition, {
        greet: (call: grpc.ServerUnaryCall<string, string>, answer: grpc.sendUnaryData<string>) =>
          answer(null, `hello ${call.request} at ${call.getPeer()}`),
        chat: (call: grpc.ServerDuplexStream<string, string>) =>
          call.on('data', (word: string) => call.write(word.toUpperCase())).on('end', () => call.end()),
        held: (_call: grpc.ServerUnaryCall<string, string>, answer: grpc.sendUnaryData<string>) =>
          void gate.pass().then(() => answer(null, 'held')),
      })
      cleanUp(() => server.forceShutdown())
      const injector = server.createConnectionInjector(serverCredentials)
      const listener = await listen({ host: '127.0.0.1' })
      const serving = serve(listener, (connection) => injector.injectConnection(connection.toSocket()))
      cutOffAtTheEnd(serving)
      const { host, port } = target(listener) as { host: string; port: number }
      const client = new grpc.Client(`${host}:${port}`, clientCredentials, {
        'grpc.ssl_target_name_override': 'localhost',
        'grpc.enable_http_proxy': 0,
      })
      cleanUp(() => client.close())
      return { server, gate, listener, serving, client }
    }

    const call = (client: grpc.Client, { path, requestSerialize, responseDeserialize }: typeof definition.greet) =>
      new Promise<string | undefined>((resolve, reject) => {
        client.makeUnaryRequest(path, requestSerialize, responseDeserialize, 'you', (error, answer) =>
          error ? reject(error) : resolve(answer),
        )
      })

    async function assertEnded(serving: Serving): Promise<void> {
      await serving.close({ closeListener: true })
      assert.equal(serving.connections, 0)
      assert.equal(serving.listener.fd, -1)
    }

    it('answers calls and streams, and tryShutdown() waits for the call in progress', async () => {
      const { server, gate, serving, client } = await start()
      assert.match((await call(client, definition.greet)) as string, /^hello you at 127\.0\.0\.1:\d+$/)

      const { path, requestSerialize, responseDeserialize } = definition.chat
      const chat = client.makeBidiStreamRequest(path, requestSerialize, responseDeserialize)
      for (const word of ['one', 'two', 'three']) {
        chat.write(word)
        assert.deepEqual(await once(chat, 'data'), [word.toUpperCase()])
      }
      const ended = once(chat, 'end')
      chat.end()
      await ended

      const answer = call(client, definition.held)
      await gate.reached
      assert.equal(serving.connections, 1)
      const ending = assertEnded(serving)
      const shutDown = promisify(server.tryShutdown.bind(server))()
      gate.open()
      assert.equal(await answer, 'held')
      await shutDown
      await ending
    })

    it('disconnects the call in progress in forceShutdown()', async () => {
      const { server, gate, serving, client } = await start()
      const answer = assert.rejects(call(client, definition.held), { code: grpc.status.CANCELLED })
      await gate.reached
      const ending = assertEnded(serving)
      server.forceShutdown()
      await answer
      await ending
      gate.open()
    })
  })
}
