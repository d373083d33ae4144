// The preload: `node --import async-accept/inherit server.js`. Without inherited sockets it loads nothing else, not even
// a module of Node: node:worker_threads takes 3 ms.

/** Whether sd_listen_fds(3) may find fds. A LISTEN_PID that is not a pid counts, because it is an error to report. */
function isActivated({ LISTEN_PID, LISTEN_FDS }: NodeJS.ProcessEnv): boolean {
  if (LISTEN_PID === undefined || LISTEN_FDS === undefined || LISTEN_FDS === '0') return false
  return !/^\d{1,10}$/.test(LISTEN_PID) || Number(LISTEN_PID) === process.pid
}

if (isActivated(process.env) && (await import('node:worker_threads')).isMainThread) {
  try {
    const { start } = await import('./start.js')
    start()
  } catch (error) {
    // One line before the program starts. A program without its sockets would listen elsewhere, or not at all.
    process.stderr.write(`async-accept/inherit: ${String((error as Error).message).replaceAll('\n', ' ')}\n`)
    process.exit(2)
  }
}
