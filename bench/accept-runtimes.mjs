// The contenders of accept.mjs in Bun and Deno. Bun and Deno run this file, so it cannot import async-accept.
let connections = 0

// Keeps the address, so that reading it is not optimized away.
const looks = { last: undefined }

export const contenders = [
  {
    name: 'Bun',
    serve: async (kind, where) => {
      const { Bun } = globalThis
      const listener = Bun.listen({
        ...(kind === 'tcp' ? { hostname: where, port: 0 } : { unix: where }),
        socket: {
          open: (socket) => {
            connections++
            looks.last = socket.remoteAddress
            socket.end()
          },
          // Bun requires a handler of data.
          data: () => {},
        },
      })
      // Bun has no option for the backlog, and listens with 512.
      return {
        address: { ...(kind === 'tcp' ? { port: listener.port } : { path: where }), backlog: 512 },
        connections: () => connections,
      }
    },
  },
  {
    name: 'Deno',
    serve: async (kind, where) => {
      const { Deno } = globalThis
      const listener = Deno.listen(
        kind === 'tcp' ? { hostname: where, port: 0, tcpBacklog: 65535 } : { transport: 'unix', path: where },
      )
      const loop = async () => {
        for (;;) {
          try {
            const connection = await listener.accept()
            looks.last = connection.remoteAddr
            connection.close()
          } catch (error) {
            // Deno asks for the peer of an accepted socket. A client that has reset has none, so accept() rejects.
            if (error.name !== 'NotConnected') throw error
          }
          connections++
        }
      }
      loop()
      // Deno has no option for the backlog of a unix socket, and listens with 1024.
      return {
        address: kind === 'tcp' ? { port: listener.addr.port } : { path: where, backlog: 1024 },
        connections: () => connections,
      }
    },
  },
]
