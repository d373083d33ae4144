import { once } from 'node:events'
import net from 'node:net'
import { binding } from '../src/core/binding.js'
import { Listener } from '../src/index.js'
import { cleanUp, target } from './helpers.js'

/** In a suite: makes the first look-ahead of the thread, which opens an epoll instance for all of them. */
export function lookedBefore(): void {
  before(async () => {
    const listener = await Listener.listen({ host: '127.0.0.1' })
    const accepting = listener.accept()
    const client = net.connect(target(listener))
    client.write('x')
    const connection = await accepting
    await connection.peek(1)
    connection.close()
    client.on('error', () => {}).destroy()
    await once(client, 'close')
    listener.close()
  })
}

/** Counts the calls of recv(2) by look-aheads from now on, in the current test. */
export function countLooks(): { count: number } {
  const looks = { count: 0 }
  const { receive } = binding
  binding.receive = (...args: Parameters<typeof receive>) => {
    looks.count++
    return receive(...args)
  }
  cleanUp(() => {
    binding.receive = receive
  })
  return looks
}
