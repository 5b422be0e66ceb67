import {
  AlgorithmSuiteIdentifier,
  buildClient,
  CommitmentPolicy,
  getLocalCryptographicMaterialsCache,
  NodeCachingMaterialsManager,
  RawAesKeyringNode,
  RawAesWrappingSuiteIdentifier
} from "@aws-crypto/client-node"
import { Eager } from "@millrace/core"
import { Encryption, Keys } from "@millrace/crypto"
import { Effect, Exit, Redacted } from "effect"
import * as jose from "jose"
import { createCipheriv, createDecipheriv, createSecretKey, randomBytes } from "node:crypto"
import { type Bench, measure, type Measured } from "./Bench.ts"

const body = randomBytes(1024)
const secret = randomBytes(32)

const context: Encryption.Context = {
  channel: "orders",
  key: Buffer.from("customer-7"),
  contentType: "application/json",
  headers: {}
}

const millrace = (algorithm: Encryption.Algorithm) => (): Promise<Measured> => {
  const encryption = Encryption.make({ algorithm })
  const layer = Keys.layerMemory({ keys: { "2026-12": Redacted.make(secret) }, writing: "2026-12" })
  const once = () => Effect.flatMapEager(encryption.seal(body, context), (sealed) => encryption.open(sealed, context))
  return measure((total) =>
    Effect.runPromise(Effect.provide(
      Effect.suspend(() => {
        for (let i = 0; i < total; i++) {
          const result = once()
          if (!Eager.isDone(result) || Exit.isFailure(result)) return Effect.die(new Error("not at once"))
        }
        return Effect.void
      }),
      layer
    ))
  )
}

/** The same key, and as many associated bytes: what nobody does in less. */
const bare = (): Promise<Measured> => {
  const key = createSecretKey(secret)
  const associated = randomBytes(77 + 16 + 6 + 10 + 16)
  return measure((total) => {
    for (let i = 0; i < total; i++) {
      const nonce = randomBytes(12)
      const cipher = createCipheriv("aes-256-gcm", key, nonce)
      cipher.setAAD(associated)
      const sealed = Buffer.concat([cipher.update(body), cipher.final()])
      const decipher = createDecipheriv("aes-256-gcm", key, nonce)
      decipher.setAAD(associated)
      decipher.setAuthTag(cipher.getAuthTag())
      Buffer.concat([decipher.update(sealed), decipher.final()])
    }
  })
}

const joses = (): Promise<Measured> =>
  measure(async (total) => {
    const header = { alg: "dir", enc: "A256GCM", channel: "orders" } as const
    for (let i = 0; i < total; i++) {
      const token = await new jose.CompactEncrypt(body).setProtectedHeader(header).encrypt(secret)
      await jose.compactDecrypt(token, secret)
    }
  }, { most: 20_000 })

const aws = (): Promise<Measured> => {
  const { decrypt, encrypt } = buildClient(CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT)
  // the suite without signatures: with key commitment, as ours
  const suiteId = AlgorithmSuiteIdentifier.ALG_AES256_GCM_IV12_TAG16_HKDF_SHA512_COMMIT_KEY
  const manager = new NodeCachingMaterialsManager({
    backingMaterials: new RawAesKeyringNode({
      keyName: "2026-12",
      keyNamespace: "bench",
      unencryptedMasterKey: new Uint8Array(secret),
      wrappingSuite: RawAesWrappingSuiteIdentifier.AES256_GCM_IV12_TAG16_NO_PADDING
    }),
    cache: getLocalCryptographicMaterialsCache(1000),
    maxAge: 300_000,
    maxMessagesEncrypted: 2 ** 20
  })
  return measure(async (total) => {
    for (let i = 0; i < total; i++) {
      const { result } = await encrypt(manager, body, { encryptionContext: { channel: "orders" }, suiteId })
      await decrypt(manager, result)
    }
  }, { least: 500, most: 5000 })
}

export const encryption: Bench = {
  name: "encryption",
  about: "1 KiB encrypted and decrypted, CPU for each",
  rounds: 3,
  variants: [
    { name: "millrace, AES-256-GCM", whose: "millrace", run: millrace("aes256Gcm") },
    { name: "millrace, XAES-256-GCM", whose: "millrace", run: millrace("xaes256Gcm") },
    { name: "jose, dir and A256GCM", whose: "peer", run: joses },
    { name: "@aws-crypto/client-node, cached", whose: "peer", run: aws },
    { name: "node:crypto, AES-256-GCM", whose: "limit", run: bare }
  ],
  goals: [
    {
      id: "F10",
      text: "out and in, times node:crypto alone",
      target: 2,
      better: "lower",
      measured: (of) => of("millrace, AES-256-GCM").cpu / of("node:crypto, AES-256-GCM").cpu
    },
    {
      id: "F10",
      text: "times cheaper than @aws-crypto/client-node with cached keys",
      target: 10,
      better: "higher",
      measured: (of) => of("@aws-crypto/client-node, cached").cpu / of("millrace, AES-256-GCM").cpu
    },
    {
      id: "F10",
      text: "times cheaper than jose's compact JWE",
      target: 5,
      better: "higher",
      measured: (of) => of("jose, dir and A256GCM").cpu / of("millrace, AES-256-GCM").cpu
    }
  ]
}
