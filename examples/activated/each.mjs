// Sends back what it gets, to the one client that it was started for: by systemd (each.socket), or by inetd with nowait.
import { activatedConnection } from 'async-accept'

const connection = activatedConnection({ inetd: true })
if (connection === undefined) throw new Error('there is no connection: start this with each.socket')
const socket = connection.toSocket({ allowHalfOpen: true })
socket.on('error', () => socket.destroy())
socket.write(`hello ${connection.remoteAddress}\n`)
socket.pipe(socket)
