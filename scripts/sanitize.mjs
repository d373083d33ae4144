// Runs native code with a sanitizer: node scripts/sanitize.mjs address|thread|valgrind [test file...]
// First runs a program without Node (test/native/listeners.cc), which is completely instrumented. Then, except under
// valgrind, runs the tests that exercise native/, with an instrumented addon. Node is not instrumented: the runtime of
// the sanitizer is preloaded, also into the programs that tests start. Any report is a failure, whatever the exit code.
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
    // Without vptr: that check creates a pipe, and aborts at the fd limit, which some tests reach.
    flags: ['-fsanitize=address,undefined', '-fno-sanitize=vptr', '-fno-sanitize-recover=all'],
    clients: 5000,
    addon: {
      compiler: clang,
      linkFlags: ['-shared-libasan'],
      runtime: `libclang_rt.asan-${machine}.so`,
      variable: 'ASAN_OPTIONS',
      // symbolize=0: symbols for leaks of Node take seconds per process. findingsOf() adds symbols for the addon's.
      options: ['detect_stack_use_after_return=1', 'strict_string_checks=1', 'detect_leaks=0', 'symbolize=0'],
      // Only in Node, because other programs that tests start (bash, Python, socat) exit without freeing their memory.
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
      // gcc, because the runtime of clang 14 crashes when it is preloaded.
      compiler: { CC: 'gcc', CXX: 'g++' },
      linkFlags: [],
      runtime: 'libtsan.so',
      variable: 'TSAN_OPTIONS',
      // V8 and libuv synchronize with atomics that the runtime does not see.
      options: ['ignore_noninstrumented_modules=1'],
      nodeOptions: [],
    },
    tests: ['handover/fd-channel', 'peek/look-ahead', 'accept/threads', 'workers'],
  },
  valgrind: {
    // The newest DWARF version that Debian's valgrind supports.
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
  const addon = variant(name, {
    env: {
      ...compiler,
      CXXFLAGS: [...kind.flags, '-g', '-O1', '-fno-omit-frame-pointer'].join(' '),
      // nodelete: keeps the addon loaded after its last worker, so that frames can be symbolized.
      LDFLAGS: [...kind.flags, ...linkFlags, '-Wl,-z,nodelete'].join(' '),
    },
  })
  // Reports go to files, because a test may read the stderr of its program, or expect the program to fail.
  const reports = mkdtempSync(join(tmpdir(), 'async-accept-reports-'))
  chmodSync(reports, 0o1777) // for processes that run as another user
  writeFileSync(join(reports, basename(process.execPath)), nodeOptions.join('\n'))
  const places = [`log_path='${reports}/report'`, `include_if_exists='${reports}/%b'`, 'exitcode=0']
  const files = given.length > 0 ? given : kind.tests.map((each) => `test/${each}.test.ts`)
  // The leak check at the exit of each Node process takes seconds on a busy machine.
  const limits = ['--forbid-only', '--timeout=300000']
  const { status } = spawnSync(process.execPath, ['node_modules/mocha/bin/mocha.js', ...limits, ...files], {
    cwd: root,
    stdio: 'inherit',
    env: {
      ...process.env,
      ASYNC_ACCEPT_ADDON: addon,
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

// Of the leaks, reports only those that the addon allocated itself or through the C++ library. Node does not free its
// heap in process.exit(). A suppression list cannot express that: it matches any frame, and Node is below every addon
// frame.
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
