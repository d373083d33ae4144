import { spawnSync } from 'node:child_process'
import { isIPv6 } from 'node:net'
import { networkInterfaces } from 'node:os'

/** Skips the test, and prints the reason. */
export function skip(context: Mocha.Context, why: string): never {
  console.log(`      skipped: ${why}`)
  return context.skip()
}

/** Returns the output of a program. Skips the test if the program fails. */
export function needs(context: Mocha.Context, program: string, ...args: string[]): string {
  const { error, status, stdout, stderr } = spawnSync(program, args, { encoding: 'utf8' })
  if (status !== 0) skip(context, `${program} does not work: ${error?.message ?? stderr}`)
  return stdout + stderr
}

/** Skips the test if strace is not permitted to trace. */
export function needsStrace(context: Mocha.Context): void {
  // strace would stop each of a thread sanitizer's many system calls twice, and a leak sanitizer does not work while it
  // is traced.
  if (process.env.LD_PRELOAD) skip(context, 'a sanitizer is preloaded, which strace would also trace')
  needs(context, 'strace', '-f', '-qq', '-o', '/dev/null', 'true')
}

/** Whether `::1` exists, which containers often lack. */
export const hasIpv6 = Object.values(networkInterfaces()).some((addresses) =>
  addresses?.some(({ address }) => address === '::1'),
)

/** Skips the test if `host` is an IPv6 address and `::1` does not exist. */
export function needsFamilyOf(context: Mocha.Context, host: string): void {
  if (isIPv6(host) && !hasIpv6) skip(context, 'this host has no IPv6 loopback address')
}
