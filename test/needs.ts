import { spawnSync } from 'node:child_process'
import { isIPv6 } from 'node:net'
import { networkInterfaces } from 'node:os'

/** Skips the test, and says why. */
export function skip(context: Mocha.Context, why: string): never {
  console.log(`      skipped: ${why}`)
  return context.skip()
}

/** What a program prints; skips the test when it does not work. */
export function needs(context: Mocha.Context, program: string, ...args: string[]): string {
  const { error, status, stdout, stderr } = spawnSync(program, args, { encoding: 'utf8' })
  if (status !== 0) skip(context, `${program} does not work here: ${error?.message ?? stderr}`)
  return stdout + stderr
}

/** Skips the test where strace may not trace. */
export function needsStrace(context: Mocha.Context): void {
  // Each of a thread sanitizer's many system calls would stop twice, and a leak sanitizer cannot work while it is traced.
  if (process.env.LD_PRELOAD) skip(context, 'the runtime of a sanitizer is preloaded, which strace would trace, too')
  needs(context, 'strace', '-f', '-qq', '-o', '/dev/null', 'true')
}

/** Whether there is `::1`, which a container often lacks. */
export const hasIpv6 = Object.values(networkInterfaces()).some((addresses) =>
  addresses?.some(({ address }) => address === '::1'),
)

/** Skips the test where `host` is an IPv6 address and there is no `::1`. */
export function needsFamilyOf(context: Mocha.Context, host: string): void {
  if (isIPv6(host) && !hasIpv6) skip(context, 'this host has no IPv6 loopback address')
}
