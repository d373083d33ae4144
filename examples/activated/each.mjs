// An echo server for one client, started for each connection by systemd (each.socket) or by inetd with nowait.
import { activatedConnection } from 'async-accept'

const connection = activatedConnection({ inetd: true })
if (connection === undefined) throw new Error('no inherited connection: start this program with each.socket')
const socket = connection.toSocket({ allowHalfOpen: true })
socket.on('error', () => socket.destroy())
socket.write(`hello ${connection.remoteAddress}\n`)
socket.pipe(socket)
