import assert from 'node:assert/strict'
import { runNode, temporaryDirectory } from '../helpers.js'
import { needsStrace } from '../needs.js'

// As a container's seccomp filter answers, and a kernel that does not know the call.
const errnos = ['EPERM', 'ENOSYS']

/** What becomes of each use when the kernel refuses each of the calls: 'ok', or the error. */
async function refusing(calls: string, errno: string, uses: string[]): Promise<Record<string, string>> {
  const strace = ['strace', '-f', '-qq', '--seccomp-bpf', '-o', '/dev/null', '-e', `trace=${calls}`]
  const command = [...strace, '-e', `inject=${calls}:error=${errno}`]
  const { code, stdout, stderr } = await runNode('refused-calls.mjs', [temporaryDirectory(), ...uses], command)
  assert.deepEqual([code, stderr], [0, ''])
  return JSON.parse(stdout)
}

const all = ['listener', 'connection', 'channel', 'serve', 'backlog', 'unixBacklog', 'pidfd', 'stdin', 'storeFds']

describe('When the kernel refuses a system call', () => {
  before(function () {
    needsStrace(this)
  })

  for (const errno of errnos) {
    // Node itself needs fstat(2), so there is always that.
    it(`statx(2) with ${errno}, everything works by fstat(2)`, async () => {
      const outcomes = await refusing('statx', errno, all)
      assert.deepEqual(outcomes, Object.fromEntries(all.map((use) => [use, 'ok'])))
    })

    it(`getsockopt(2) with ${errno}, a listener accepts, and an fd is not taken for one that is not open`, async () => {
      const outcomes = await refusing('getsockopt', errno, ['accept', 'listener', 'stdin'])
      assert.deepEqual(outcomes, { accept: 'ok', listener: `${errno} statx`, stdin: `${errno} statx` })
    })

    it(`getpeername(2) with ${errno}, a socket is not taken for one without a peer`, async () => {
      assert.deepEqual(await refusing('getpeername', errno, ['channel']), { channel: `${errno} statx` })
    })

    it(`pidfd_open(2) with ${errno}, LISTEN_PID decides`, async () => {
      assert.deepEqual(await refusing('pidfd_open', errno, ['pidfd']), { pidfd: 'ERR_ACTIVATION' })
    })

    it(`setsockopt(2) with ${errno}, connections are closed and reset`, async () => {
      assert.deepEqual(await refusing('setsockopt', errno, ['channel']), { channel: 'ok' })
    })
  }
})
