// An Express application that knows nothing of inherited sockets. As a program, it prints the CPU that it has used until
// it listens.
const app = require('express')()

app.get('/', (_request, response) => response.send('hello\n'))

if (require.main === module) {
  app.listen(Number(process.argv[2]), () => process.stdout.write(JSON.stringify(process.cpuUsage())))
}
module.exports = app
