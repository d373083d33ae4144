// One process may load several copies of this package: two versions in one node_modules tree, or one copy per realm.
// The classes have private fields, so one copy cannot use an object of another.
import { fileURLToPath } from 'node:url'
import { moduleUrl } from './module-url.js'

interface Brand {
  readonly name: string
  readonly location: string
}

const key = Symbol.for('async-accept.class')
const ours = new WeakSet<Brand>()
const location = fileURLToPath(new URL('..', moduleUrl))

/** Marks the instances of a class as belonging to this copy of the package. */
export function brand(Class: { prototype: object }, name: string): void {
  const value: Brand = Object.freeze({ name, location })
  ours.add(value)
  Object.defineProperty(Class.prototype, key, { value })
}

/** Describes an object of another copy of this package, for an error message. Returns undefined for any other value. */
export function fromAnotherCopy(value: unknown): string | undefined {
  try {
    const found = (value as { [key]?: Brand })[key]
    if (found === undefined || ours.has(found)) return undefined
    return `a ${found.name} of another copy of async-accept, loaded from ${found.location}`
  } catch {
    return undefined // the value is, for example, a Proxy that throws
  }
}
