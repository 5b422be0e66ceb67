import { ClaimFile, Claims, ClaimS3, ClaimStore } from "@millrace/claims"
import { Headers, PayloadCodec } from "@millrace/core"
import { S3Proxy } from "@millrace/testing/servers"
import { SignatureV4 } from "@smithy/signature-v4"
import { Effect, Exit, Layer } from "effect"
import { FetchHttpClient } from "effect/http"
import { createHash, createHmac, type Hash, type Hmac, randomBytes, randomUUID } from "node:crypto"
import { mkdtempSync, rmSync } from "node:fs"
import { open, readFile, rename } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { type Bench, measure, type Measured, scaled, stopwatch } from "./Bench.ts"
import { environment, serve } from "./reading.ts"

const serverName = "MILLRACE_BENCH_S3"

const small = randomBytes(1024)
const large = randomBytes(10 * 1024 * 1024)

const metadata: PayloadCodec.Metadata = {
  system: "memory",
  channel: "documents",
  key: "a",
  keyBytes: Buffer.from("a"),
  headers: Headers.fromRecord({ "content-type": "application/octet-stream" }),
  fields: [],
  attempt: 1,
  timestamp: undefined
}

const claims = Claims.transform()

/** A body of 1 KiB, which stays in its message, through a codec and back. */
const under = (codec: PayloadCodec.PayloadCodec<ClaimStore.Store>) => (): Promise<Measured> =>
  measure((total) =>
    Effect.runPromise(Effect.provide(
      Effect.suspend(() => {
        for (let i = 0; i < total; i++) {
          const result = Effect.flatMapEager(
            codec.encode(small, metadata),
            ({ bytes }) => codec.decode(bytes, metadata)
          )
          if (!Exit.isExit(result) || Exit.isFailure(result)) return Effect.die("not at once")
        }
        return Effect.void
      }),
      ClaimStore.layerMemory()
    ))
  )

/** Runs a round trip so often that it takes some seconds. */
const trips = async (each: () => Promise<number>): Promise<Measured> => {
  const total = scaled(60)
  const once = async () => {
    const length = await each()
    if (length !== large.length) throw new Error(`${length} bytes came back`)
  }
  for (let i = 0; i < Math.ceil(total / 6); i++) await once()
  const stop = stopwatch()
  for (let i = 0; i < total; i++) await once()
  return stop(total)
}

/** A body of 10 MiB out by reference, and in. */
const through = <E>(layer: Layer.Layer<ClaimStore.Store, E>): Promise<Measured> =>
  Effect.runPromise(Effect.provide(
    Effect.flatMap(Effect.context<ClaimStore.Store>(), (services) =>
      Effect.promise(() =>
        trips(() => {
          // a body is written once a day, so it must be another
          large.writeUInt32BE(Math.floor(Math.random() * 2 ** 32))
          const trip = Effect.suspend(() =>
            Effect.flatMap(
              claims.encode(large, metadata),
              ({ bytes, headers = {} }) =>
                claims.decode(bytes, { ...metadata, headers: Headers.merge(metadata.headers, headers) })
            )
          )
          return Effect.runPromise(Effect.provideContext(Effect.map(trip, ({ length }) => length), services))
        })
      )),
    layer
  ))

const within = async (use: (folder: string) => Promise<Measured>): Promise<Measured> => {
  const folder = mkdtempSync(join(tmpdir(), "millrace-bench-claims-"))
  try {
    return await use(folder)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

const oursInFile = () => within((directory) => through(ClaimFile.layer({ directory, retention: "Infinity" })))

/** As durable: a file that is flushed, renamed, its folder flushed; and read. */
const bareFile = () =>
  within((folder) =>
    trips(async () => {
      const [draft, target] = [join(folder, "draft"), join(folder, randomUUID())]
      const handle = await open(draft, "wx")
      await handle.writeFile(large)
      await handle.sync()
      await handle.close()
      await rename(draft, target)
      const directory = await open(folder, "r")
      await directory.sync()
      await directory.close()
      return (await readFile(target)).length
    })
  )

interface Server {
  readonly url: string
  readonly bucket: string
  readonly credentials: { readonly accessKeyId: string; readonly secretAccessKey: string }
}

const server = (): Server => JSON.parse(environment(serverName)) as Server

const oursInS3 = () => {
  const { bucket, credentials, url } = server()
  const store = ClaimS3.layer({
    bucket,
    prefix: `${randomUUID()}/`,
    region: "eu-central-1",
    endpoint: url,
    credentials
  })
  return through(Layer.provide(store, FetchHttpClient.layer))
}

/** The hash that AWS's own implementation is given. */
class Sha256 {
  private readonly hash: Hash | Hmac

  constructor(secret?: string | ArrayBuffer | ArrayBufferView) {
    this.hash = secret === undefined
      ? createHash("sha256")
      : createHmac("sha256", typeof secret === "string" ? secret : bufferOf(secret))
  }

  update(data: string | ArrayBuffer | ArrayBufferView): void {
    this.hash.update(typeof data === "string" ? data : bufferOf(data))
  }

  digest(): Promise<Uint8Array> {
    return Promise.resolve(this.hash.digest())
  }

  reset(): void {}
}

const bufferOf = (data: ArrayBuffer | ArrayBufferView): Buffer =>
  ArrayBuffer.isView(data) ? Buffer.from(data.buffer, data.byteOffset, data.byteLength) : Buffer.from(data)

/** PUT and GET by `fetch`, signed by AWS's own code without a digest of the body. */
const bareS3 = () => {
  const { bucket, credentials, url } = server()
  const { hostname, host } = new URL(url)
  const signer = new SignatureV4({
    service: "s3",
    region: "eu-central-1",
    credentials,
    sha256: Sha256,
    uriEscapePath: false
  })
  const ask = async (method: string, path: string, body?: Uint8Array<ArrayBuffer>) => {
    const { headers } = await signer.sign({
      method,
      protocol: "http:",
      hostname,
      path,
      headers: { host, "x-amz-content-sha256": "UNSIGNED-PAYLOAD" }
    })
    const response = await fetch(`${url}${path}`, { method, headers, ...(body === undefined ? {} : { body }) })
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${await response.text()}`)
    return (await response.arrayBuffer()).byteLength
  }
  return trips(async () => {
    const path = `/${bucket}/${randomUUID()}`
    await ask("PUT", path, large)
    return await ask("GET", path)
  })
}

const share = () =>
  serve(Effect.map(S3Proxy.own({ heap: "512m" }), ({ bucket, credentials, url }) => ({
    [serverName]: JSON.stringify({ bucket, credentials, url })
  })))

export const claimCheck: Bench = {
  name: "claims",
  about: "bodies that stay in their messages, and 10 MiB through a store",
  rounds: 3,
  share,
  variants: [
    { name: "1 KiB, no transform", whose: "limit", run: under(PayloadCodec.bytes) },
    {
      name: "1 KiB, under the threshold",
      whose: "millrace",
      run: under(PayloadCodec.through(PayloadCodec.bytes, [claims]))
    },
    { name: "10 MiB, file", whose: "millrace", run: oursInFile },
    { name: "10 MiB, a bare file", whose: "limit", run: bareFile },
    { name: "10 MiB, S3", whose: "millrace", run: oursInS3 },
    { name: "10 MiB, bare PUT and GET", whose: "limit", run: bareS3 }
  ],
  goals: [
    {
      id: "X13",
      text: "nanoseconds for a body under the threshold, out and in",
      target: 20,
      better: "lower",
      measured: (of) => (of("1 KiB, under the threshold").cpu - of("1 KiB, no transform").cpu) * 1000
    },
    {
      id: "X13",
      text: "10 MiB through a file for each second, as a share of a bare file",
      target: 0.9,
      better: "higher",
      measured: (of) => of("10 MiB, file")["perSecond"]! / of("10 MiB, a bare file")["perSecond"]!
    },
    {
      id: "X13",
      text: "10 MiB through S3 for each second, as a share of a bare PUT and GET",
      target: 0.9,
      better: "higher",
      measured: (of) => of("10 MiB, S3")["perSecond"]! / of("10 MiB, bare PUT and GET")["perSecond"]!
    }
  ]
}
