// A thread that uses most of the package, posts the outcome, and waits until it is terminated.
import { once } from 'node:events'
import { openSync } from 'node:fs'
import net from 'node:net'
import { parentPort } from 'node:worker_threads'

const failures = []

/** Retries once: an operation that fails because of one fault succeeds the second time. */
async function twice(run) {
  try {
    return await run()
  } catch ({ code, errno, syscall, message }) {
    failures.push({ code, errno, syscall, message })
    return run()
  }
}

/** A client that reconnects when its connection closes. */
function connect(port) {
  const client = net.connect(port, '127.0.0.1', () => client.write('hello'))
  client.on('error', () => {})
  client.on('close', () => connect(port))
}

try {
  const { FdChannel, Listener } = await import('async-accept')
  const listener = await twice(() => Listener.listen({ host: '127.0.0.1' }))
  // The addon allocates memory for every 64 fds that the environment owns. The next fds need a new allocation.
  while (openSync('/dev/null', 'r') < 63);
  connect(listener.address().port)
  const connection = await twice(() => listener.accept())
  if (String(await twice(() => connection.peek(5))) !== 'hello') throw new Error('peek() returned other bytes')
  const { channel, fd } = await twice(() => FdChannel.pair())
  const other = FdChannel.fromFd(fd)
  await twice(() => channel.send('hello', [listener.fd]))
  const { value } = await twice(() => other[Symbol.asyncIterator]().next())
  if (value.fds.length !== 1) throw new Error('an fd is lost')
  connection.toSocket()
  connect(listener.address().port)
  // All of these must end with the thread.
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
