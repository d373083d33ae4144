// A self-signed certificate, created at each start and kept in memory only.
import { isIP } from 'node:net'
import { generate } from 'selfsigned'

/** Returns `{ key, cert }` for the names and addresses of localhost, and for `host` if it is defined. */
export async function selfSignedCertificate(host) {
  const names = new Set(['localhost', '127.0.0.1', '::1'])
  if (host !== undefined) names.add(host)
  const altNames = [...names].map((name) => (isIP(name) ? { type: 7, ip: name } : { type: 2, value: name }))
  const made = await generate([{ name: 'commonName', value: 'localhost' }], {
    keyType: 'ec',
    algorithm: 'sha256',
    extensions: [
      { name: 'basicConstraints', cA: false, critical: true },
      { name: 'keyUsage', digitalSignature: true, critical: true },
      { name: 'extKeyUsage', serverAuth: true },
      { name: 'subjectAltName', altNames },
    ],
  })
  return { key: made.private, cert: made.cert }
}
