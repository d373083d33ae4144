import { generate } from 'selfsigned'

/** The `key` and `cert` options of a TLS server or client. */
export interface Certificate {
  key: string
  cert: string
}

export interface Certificates {
  /** The CA that signs all others except `stranger`. */
  ca: Certificate
  /** For localhost, 127.0.0.1 and ::1. */
  localhost: Certificate
  /** For a.test. */
  a: Certificate
  /** For b.test. */
  b: Certificate
  /** A client certificate with the common name 'client'. */
  client: Certificate
  /** A client certificate with the same name, signed by an unknown CA. */
  stranger: Certificate
}

type Extensions = NonNullable<NonNullable<Parameters<typeof generate>[1]>['extensions']>

const dns = (value: string) => ({ type: 2, value }) as const
const ip = (address: string) => ({ type: 7, ip: address }) as const

async function make(commonName: string, extensions: Extensions, ca?: Certificate): Promise<Certificate> {
  const pems = await generate([{ name: 'commonName', value: commonName }], {
    keyType: 'ec',
    curve: 'P-256',
    algorithm: 'sha256',
    extensions,
    ...(ca && { ca }),
  })
  return { key: pems.private, cert: pems.cert }
}

const makeCa = (commonName: string) =>
  make(commonName, [
    { name: 'basicConstraints', cA: true, critical: true },
    { name: 'keyUsage', keyCertSign: true, cRLSign: true, critical: true },
  ])

const makeServer = (ca: Certificate, ...altNames: (ReturnType<typeof dns> | ReturnType<typeof ip>)[]) =>
  make(
    String(altNames[0] && 'value' in altNames[0] && altNames[0].value),
    [
      { name: 'keyUsage', digitalSignature: true, critical: true },
      { name: 'extKeyUsage', serverAuth: true },
      { name: 'subjectAltName', altNames },
    ],
    ca,
  )

const makeClient = (ca: Certificate) =>
  make(
    'client',
    [
      { name: 'keyUsage', digitalSignature: true, critical: true },
      { name: 'extKeyUsage', clientAuth: true },
    ],
    ca,
  )

async function makeAll(): Promise<Certificates> {
  const [ca, unknown] = await Promise.all([makeCa('async-accept test CA'), makeCa('unknown CA')])
  const [localhost, a, b, client, stranger] = await Promise.all([
    makeServer(ca, dns('localhost'), ip('127.0.0.1'), ip('::1')),
    makeServer(ca, dns('a.test')),
    makeServer(ca, dns('b.test')),
    makeClient(ca),
    makeClient(unknown),
  ])
  return { ca, localhost, a, b, client, stranger }
}

let made: Promise<Certificates> | undefined

/** Creates the certificates in the first call, with P-256 keys: a few milliseconds for all of them. */
export function certificates(): Promise<Certificates> {
  made ??= makeAll()
  return made
}
