// The worker that serves the clients of one server name: see ../workers-by-name.mjs
import { parentPort, workerData } from 'node:worker_threads'
import { Connection } from 'async-accept'
import { selfSignedCertificate } from '../http2-machines/certificate.mjs'

const options = await selfSignedCertificate(workerData)

parentPort.on('message', async (fd) => {
  const connection = Connection.fromFd(fd, { dup: true })
  parentPort.postMessage(fd) // the parent closes its fd; the connection belongs to this worker
  const socket = await connection.toTLS(options).catch(() => undefined)
  socket?.on('error', () => {}).end(`hello from the thread of ${workerData}\n`)
})
