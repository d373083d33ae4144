import { constants } from 'node:os'
import { getSystemErrorMap } from 'node:util'
import { type Binding, binding } from '../../src/core/binding.js'

interface Faults {
  /** Makes `times` calls of that name fail, from the `first`th on; all if `times` is negative. Resets the counters. */
  plan(call: string, first: number, times: number, errno: number): void
  /** Makes no call fail, and resets the counters. */
  clear(): void
  /** Returns the number of calls of each name. */
  made(): Record<string, number>
  /** Returns the number of calls that failed. */
  failed(): number
}

const found = (binding as Binding & { faults?: Faults }).faults
if (found === undefined) throw new Error('this addon has no fault injection: use npm run test:faults')
export const faults = found

/** The addon's own memory allocations, treated as a system call. */
export const allocation = 'operator new'

export interface Fault {
  call: string
  errno: string
  /** The number of the call, among those of that name, from 1 on. */
  number: number
}

// The C library has ENOPKG; libuv and Node do not.
const numbers: Record<string, number> = { ENOPKG: 65, ...constants.errno }
for (const [errno, [name]] of getSystemErrorMap()) numbers[name] = -errno

export const numberOf = (errno: string): number => numbers[errno] as number

export function plan({ call, errno, number }: Fault, times = 1): void {
  faults.plan(call, number, times, numberOf(errno))
}
