import { runCleanups } from './helpers.js'

// What CI systems, service managers and developers set, and what changes the behaviour of the programs under test or
// of those that they start: colours, activation and notification, the addresses and the mode of example servers.
const set = ['CI', 'TEAMCITY_VERSION', 'FORCE_COLOR', 'NO_COLOR', 'NODE_DISABLE_COLORS', 'NODE_ENV', 'PORT', 'HOST']
const byService =
  /^(LISTEN_.*|REMOTE_(ADDR|PORT)|NOTIFY_SOCKET|WATCHDOG_.*|FDSTORE|INVOCATION_ID|JOURNAL_STREAM|.*RUNTIME_DIR.*)$/
const own = /^ASYNC_ACCEPT_(?!ADDON$)/

for (const name of Object.keys(process.env)) {
  if (set.includes(name) || byService.test(name) || own.test(name)) delete process.env[name]
}
process.env.LC_ALL = 'C.UTF-8'
process.umask(0o022)

export const mochaHooks = { afterEach: runCleanups }
