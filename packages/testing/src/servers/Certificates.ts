/** Certificates for tests of TLS: an authority, a server on the loopback interface, a client, and an untrusted client. */
import { Effect, type Scope } from "effect"
import { chmodSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs"
import { rm } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { findTool, runTool, settled } from "./process.ts"
import { ServerFailed, ServerUnavailable } from "./Server.ts"

/** A certificate and its key, in PEM and as files. */
export interface Pair {
  readonly cert: string
  readonly key: string
  readonly certFile: string
  readonly keyFile: string
}

/** Certificates for TLS and mutual TLS. */
export interface Certificates {
  readonly ca: string
  readonly caFile: string
  /** For `localhost` and `127.0.0.1`. */
  readonly server: Pair
  /** Of the subject `CN=app`. */
  readonly client: Pair
  /** Self-signed: no server trusts it. */
  readonly stranger: Pair
}

const curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]

// TLS libraries require these extensions of an authority; without them OpenSSL 3 refuses its certificates
const authority = ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign"]

const failed = (cause: unknown) =>
  new ServerFailed({
    server: "Certificates",
    logs: "",
    message: `Certificates could not be made: ${cause instanceof Error ? cause.message : String(cause)}`
  })

/** Makes certificates that are valid for two days, in a folder that is removed with the scope. Needs `openssl`. */
export const make: Effect.Effect<Certificates, ServerUnavailable | ServerFailed, Scope.Scope> = Effect.gen(
  function*() {
    const openssl = findTool("openssl")
    if (openssl === undefined) {
      return yield* new ServerUnavailable({
        server: "Certificates",
        tool: "openssl",
        message: "Certificates are made by OpenSSL: install it (on Debian: apt-get install openssl)."
      })
    }
    const folder = yield* Effect.acquireRelease(
      Effect.sync(() => mkdtempSync(join(tmpdir(), "millrace-certificates-"))),
      (path) => Effect.promise(() => rm(path, { recursive: true, force: true }))
    )
    // lets servers that run as another user read the certificates
    yield* Effect.sync(() => chmodSync(folder, 0o755))
    const run = (...args: ReadonlyArray<string>) =>
      settled((signal) => runTool(openssl, args, { cwd: folder, signal }), failed)
    const selfSigned = (name: string, subject: string, more: ReadonlyArray<string>) =>
      run(
        "req",
        "-x509",
        ...curve,
        "-keyout",
        `${name}.key`,
        "-out",
        `${name}.crt`,
        "-subj",
        subject,
        "-days",
        "2",
        ...more
      )
    const signed = (name: string, subject: string, extensions: string) =>
      Effect.gen(function*() {
        yield* Effect.sync(() => writeFileSync(join(folder, `${name}.ext`), extensions))
        yield* run("req", ...curve, "-keyout", `${name}.key`, "-out", `${name}.csr`, "-subj", subject)
        const ca = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", `${name}.ext`]
        yield* run("x509", "-req", "-in", `${name}.csr`, "-out", `${name}.crt`, ...ca)
      })
    yield* selfSigned("ca", "/CN=test-ca", authority)
    yield* signed("server", "/CN=localhost", "subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n")
    yield* signed("client", "/CN=app", "extendedKeyUsage=clientAuth\n")
    yield* selfSigned("stranger", "/CN=stranger", [])
    const pair = (name: string): Pair => {
      const [certFile, keyFile] = [join(folder, `${name}.crt`), join(folder, `${name}.key`)]
      chmodSync(keyFile, 0o644)
      return { certFile, keyFile, cert: readFileSync(certFile, "utf8"), key: readFileSync(keyFile, "utf8") }
    }
    return yield* Effect.sync((): Certificates => ({
      ca: readFileSync(join(folder, "ca.crt"), "utf8"),
      caFile: join(folder, "ca.crt"),
      server: pair("server"),
      client: pair("client"),
      stranger: pair("stranger")
    }))
  }
)
