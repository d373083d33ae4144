// A thread that uses a little of everything, says what came of it, and waits for its end.
import { once } from 'node:events'
import { openSync } from 'node:fs'
import net from 'node:net'
import { parentPort } from 'node:worker_threads'

const failures = []

/** What one fault makes fail succeeds when it is tried again. */
async function twice(run) {
  try {
    return await run()
  } catch ({ code, errno, syscall, message }) {
    failures.push({ code, errno, syscall, message })
    return run()
  }
}

/** Somebody who comes again when they are sent away. */
function connect(port) {
  const client = net.connect(port, '127.0.0.1', () => client.write('hello'))
  client.on('error', () => {})
  client.on('close', () => connect(port))
}

try {
  const { FdChannel, Listener } = await import('async-accept')
  const listener = await twice(() => Listener.listen({ host: '127.0.0.1' }))
  // What an environment notes of its fds needs memory for every 64 of them: that of a connection, too.
  while (openSync('/dev/null', 'r') < 63);
  connect(listener.address().port)
  const connection = await twice(() => listener.accept())
  if (String(await twice(() => connection.peek(5))) !== 'hello') throw new Error('it is not what was sent')
  const { channel, fd } = await twice(() => FdChannel.pair())
  const other = FdChannel.fromFd(fd)
  await twice(() => channel.send('hello', [listener.fd]))
  const { value } = await twice(() => other[Symbol.asyncIterator]().next())
  if (value.fds.length !== 1) throw new Error('an fd is lost')
  connection.toSocket()
  connect(listener.address().port)
  // All that must end with the thread.
  const left = [await twice(() => listener.accept()), value, channel, other]
  left[0].peek(100).catch(() => {})
  listener.accept().catch(() => {})
  parentPort.postMessage({ failures })
  await once(parentPort, 'message')
  console.log(left.length)
} catch ({ code, errno, syscall, message, stack }) {
  failures.push({ code, errno, syscall, message, stack })
  parentPort.postMessage({ failures, message, stack })
}
