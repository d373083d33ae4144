// What is native, with every access checked: node scripts/sanitize.mjs address|thread|valgrind [test file...]
// First a program that knows no Node (test/native/listeners.cc), all of it instrumented; then, but not under valgrind, the
// tests that exercise native/, with an instrumented addon. Node is not instrumented: the sanitizer's runtime is preloaded,
// and the programs that tests start inherit it. Any report fails, whatever becomes of the process that made it.
import { execFileSync, spawnSync } from 'node:child_process'
import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { program } from './programs.mjs'
import { root } from './steps.mjs'
import { variant } from './variants.mjs'

const machine = { x64: 'x86_64', arm64: 'aarch64' }[process.arch]
const clang = { CC: 'clang', CXX: 'clang++' }

const kinds = {
  address: {
    // Not vptr: that check makes a pipe, and aborts at the fd limit, where some tests are.
    flags: ['-fsanitize=address,undefined', '-fno-sanitize=vptr', '-fno-sanitize-recover=all'],
    clients: 5000,
    addon: {
      compiler: clang,
      linkFlags: ['-shared-libasan'],
      runtime: `libclang_rt.asan-${machine}.so`,
      variable: 'ASAN_OPTIONS',
      // symbolize=0: names for what Node leaves behind take seconds for each process; ours get theirs below.
      options: ['detect_stack_use_after_return=1', 'strict_string_checks=1', 'detect_leaks=0', 'symbolize=0'],
      // Not in every program that a test starts: bash, Python and socat leave to the kernel what they have allocated.
      nodeOptions: ['detect_leaks=1'],
    },
    tests: [
      'accept/accept-errors',
      'bad-input',
      'core/binding',
      'accept/cancel',
      'accept/capacity',
      'accept/connection',
      'handover/fd-channel',
      'handover/fd-channel-peers',
      'accept/from-fd',
      'accept/lifetime',
      'accept/listener',
      'peek/look-ahead',
      'peek/look-ahead-peers',
      'accept/open',
      'accept/open-path',
      'accept/requests',
      'accept/seqpacket',
      'accept/sockopt',
      'accept/threads',
      'accept/timeouts',
      'accept/to-socket',
      'accept/unreachable',
      'workers',
    ],
  },
  thread: {
    flags: ['-fsanitize=thread'],
    clients: 5000,
    addon: {
      // The runtime of clang 14 crashes when it is preloaded.
      compiler: { CC: 'gcc', CXX: 'g++' },
      linkFlags: [],
      runtime: 'libtsan.so',
      variable: 'TSAN_OPTIONS',
      // V8 and libuv order their accesses by atomics that the runtime does not see.
      options: ['ignore_noninstrumented_modules=1'],
      nodeOptions: [],
    },
    tests: ['handover/fd-channel', 'peek/look-ahead', 'accept/threads', 'workers'],
  },
  valgrind: {
    // The newest that Debian's valgrind reads.
    flags: ['-gdwarf-4'],
    clients: 500,
    command: ['valgrind', '--quiet', '--leak-check=full', '--track-fds=yes', '--error-exitcode=1'],
  },
}

const [name, ...given] = process.argv.slice(2)
const kind = kinds[name]
if (kind === undefined) {
  console.error(`usage: node scripts/sanitize.mjs ${Object.keys(kinds).join('|')} [test file...]`)
  process.exit(2)
}

const programFails = () => {
  const path = program(`listeners-${name}`, {
    compiler: clang.CXX,
    flags: kind.flags,
    main: 'test/native/listeners.cc',
    native: ['listener', 'readiness', 'sockaddr', 'sys'],
  })
  const [command, ...args] = [...(kind.command ?? []), path, String(kind.clients)]
  const { status, error } = spawnSync(command, args, { stdio: ['ignore', 2, 2] })
  if (error) throw error
  return status !== 0
}

const testsFail = ({ compiler, linkFlags, runtime, variable, options, nodeOptions }) => {
  const prebuild = variant(name, {
    env: {
      ...compiler,
      CXXFLAGS: [...kind.flags, '-g', '-O1', '-fno-omit-frame-pointer'].join(' '),
      // nodelete: frames have names after the last worker that had loaded it, too.
      LDFLAGS: [...kind.flags, ...linkFlags, '-Wl,-z,nodelete'].join(' '),
    },
  })
  // Reports go to files: a process at its fd limit can still be asked, and what it writes to stderr is a test's.
  const reports = mkdtempSync(join(tmpdir(), 'async-accept-reports-'))
  chmodSync(reports, 0o1777) // for those that run as another user
  writeFileSync(join(reports, basename(process.execPath)), nodeOptions.join('\n'))
  const places = [`log_path='${reports}/report'`, `include_if_exists='${reports}/%b'`, 'exitcode=0']
  const files = given.length > 0 ? given : kind.tests.map((each) => `test/${each}.test.ts`)
  // The check for leaks alone, at the end of each Node, takes seconds on a busy machine.
  const limits = ['--forbid-only', '--timeout=300000']
  const { status } = spawnSync(process.execPath, ['node_modules/mocha/bin/mocha.js', ...limits, ...files], {
    cwd: root,
    stdio: 'inherit',
    env: {
      ...process.env,
      ASYNC_ACCEPT_PREBUILD: prebuild,
      LD_PRELOAD: execFileSync(compiler.CC, [`-print-file-name=${runtime}`], { encoding: 'utf8' }).trim(),
      [variable]: [...options, ...places].join(':'),
    },
  })
  const findings = readdirSync(reports)
    .filter((file) => file.startsWith('report'))
    .flatMap((file) => findingsOf(readFileSync(join(reports, file), 'utf8')))
  rmSync(reports, { recursive: true })
  for (const finding of findings) console.error(`\n${finding}`)
  console.error(`${name}: ${findings.length} findings`)
  return status !== 0 || findings.length > 0
}

// Of leaks only those that the addon has allocated itself, or the C++ library for it. A Node that ends by process.exit
// leaves its heap as it is. A list of suppressions cannot say that: it goes by any frame, and below each of ours is Node.
function findingsOf(report) {
  const findings = /LeakSanitizer/.test(report) ? report.split('\n\n').filter(isOurLeak) : [report]
  return findings.map((finding) => finding.replace(/\((\S+async_accept\.node)\+(0x[0-9a-f]+)\)/g, nameOf))
}

function isOurLeak(paragraph) {
  if (!/ leak of /.test(paragraph)) return false
  const frames = paragraph.split('\n').filter((line) => /^ +#\d/.test(line))
  return /async_accept\.node/.test(frames.find((frame) => !/libclang_rt|libstdc\+\+/.test(frame)))
}

const nameOf = (_, file, address) =>
  execFileSync('addr2line', ['-Cfpie', file, address], { encoding: 'utf8' }).trimEnd()

const failed = [programFails(), kind.addon !== undefined && testsFail(kind.addon)]
process.exit(failed.includes(true) ? 1 : 0)
