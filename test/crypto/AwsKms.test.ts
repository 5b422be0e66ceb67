import { AwsKms, Encryption, Kms } from "@millrace/crypto"
import { DecryptCommand, GenerateDataKeyCommand, KMSClient } from "@aws-sdk/client-kms"
import { ConfigProvider, Duration, Effect, Layer, Redacted } from "effect"
import { FetchHttpClient } from "effect/http"
import { afterAll, assert, beforeAll, beforeEach, describe, it } from "vitest"
import { signed } from "../../packages/crypto/src/internal/sigV4.ts"
import { credentials, failsWith, type Fault, keyArn, kmsServer, otherArn, region } from "./kmsServer.ts"
import { bytesOf, orders } from "./support.ts"

const context = { service: "orders" }
const given = { accessKeyId: credentials.accessKeyId, secretAccessKey: Redacted.make(credentials.secretAccessKey) }

let server: Awaited<ReturnType<typeof kmsServer>>
beforeAll(async () => {
  server = await kmsServer()
})
afterAll(() => server.close())
beforeEach(() => {
  Object.assign(server.state, { fault: undefined, calls: [], requests: [], disabled: new Set() })
})

const service = (options: Partial<AwsKms.Options> = {}) =>
  Layer.provide(
    AwsKms.layer({ region, credentials: given, endpoint: server.endpoint, ...options }),
    FetchHttpClient.layer
  )

const withKms = <A, E>(body: (kms: Kms.KmsPort) => Effect.Effect<A, E>, options?: Partial<AwsKms.Options>) =>
  Effect.runPromise(Effect.provide(Effect.flatMap(Kms.Service, body), service(options)))

const errorOf = (body: (kms: Kms.KmsPort) => Effect.Effect<unknown, Kms.KmsError>, options?: Partial<AwsKms.Options>) =>
  withKms((kms) => Effect.flip(body(kms)), options)

const says = (status: number, body: string, headers: Record<string, string> = {}): Fault => (response) => {
  response.writeHead(status, headers)
  response.end(body)
}

describe("Signature Version 4", () => {
  const vector = (headers: Record<string, string>, body: string, token?: string) =>
    signed(
      { host: "example.amazonaws.com", region: "us-east-1", service: "service", headers, body },
      {
        accessKeyId: "AKIDEXAMPLE",
        secretAccessKey: Redacted.make("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"),
        sessionToken: token === undefined ? undefined : Redacted.make(token)
      },
      Date.UTC(2015, 7, 30, 12, 36, 0)
    )["authorization"]
  const authorization = (names: string, signature: string) =>
    `AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders=${names}, Signature=${signature}`

  it("F10 keeps the vectors of AWS's signature test suite for POST", () => {
    // names: post-vanilla, post-header-key-sort, post-x-www-form-urlencoded, post-sts-header-before
    assert.strictEqual(
      vector({}, ""),
      authorization("host;x-amz-date", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b")
    )
    assert.strictEqual(
      vector({ "my-header1": "value1" }, ""),
      authorization(
        "host;my-header1;x-amz-date",
        "c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c"
      )
    )
    assert.strictEqual(
      vector({ "content-type": "application/x-www-form-urlencoded" }, "Param1=value1"),
      authorization(
        "content-type;host;x-amz-date",
        "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a"
      )
    )
    const token =
      "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA=="
    assert.strictEqual(
      vector({}, "", token),
      authorization(
        "host;x-amz-date;x-amz-security-token",
        "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead"
      )
    )
  })
})

describe("the protocol of AWS KMS", () => {
  it("F10 data keys go both ways between AWS's own client and ours, with key and context", async () => {
    const client = new KMSClient({ region, credentials, endpoint: server.endpoint, maxAttempts: 1 })
    const theirs = await client.send(
      new GenerateDataKeyCommand({ KeyId: keyArn, KeySpec: "AES_256", EncryptionContext: context })
    )
    const unwrapped = await withKms((kms) => kms.unwrap(keyArn, theirs.CiphertextBlob!, context))
    assert.deepStrictEqual(Buffer.from(Redacted.value(unwrapped)), Buffer.from(theirs.Plaintext!))
    const ours = await withKms((kms) => kms.generate(keyArn, context))
    const opened = await client.send(
      new DecryptCommand({ KeyId: keyArn, CiphertextBlob: ours.wrapped, EncryptionContext: context })
    )
    assert.deepStrictEqual(Buffer.from(opened.Plaintext!), Buffer.from(Redacted.value(ours.plaintext)))
    assert.deepStrictEqual(server.state.calls, ["GenerateDataKey", "Decrypt", "GenerateDataKey", "Decrypt"])
    // the requests differ in no member from those of AWS's client
    const [generate, decrypt, ourGenerate, theirDecrypt] = server.state.requests.map(({ body }) => JSON.parse(body))
    assert.deepStrictEqual(ourGenerate, generate)
    assert.deepStrictEqual({ ...decrypt, CiphertextBlob: 0 }, {
      ...theirDecrypt,
      CiphertextBlob: 0,
      EncryptionAlgorithm: "SYMMETRIC_DEFAULT"
    })
    client.destroy()
  })

  it("F10 a data key of another key or context, or a changed one, is class poison", async () => {
    const { wrapped } = await withKms((kms) => kms.generate(keyArn, context))
    const changed = Buffer.from(wrapped)
    changed[20]! ^= 1
    for (
      const [key, blob, bound] of [
        [otherArn, wrapped, context],
        [keyArn, wrapped, { service: "billing" }],
        [keyArn, changed, context],
        [keyArn, Buffer.from("none"), context]
      ] as const
    ) {
      const error = await errorOf((kms) => kms.unwrap(key, blob, bound))
      assert.deepStrictEqual([error.reason, error.failure], ["Ciphertext", "poison"])
    }
  })

  it("F10 a wrong secret is refused by its signature, and a session token is sent and signed", async () => {
    const wrong = { ...given, secretAccessKey: Redacted.make("another") }
    const error = await errorOf((kms) => kms.generate(keyArn, {}), { credentials: wrong })
    assert.deepStrictEqual([error.reason, error.failure], ["Denied", "dependency"])
    await withKms((kms) => kms.generate(keyArn, {}), {
      credentials: Effect.succeed({ ...given, sessionToken: Redacted.make("a token") })
    })
    const { headers } = server.state.requests.at(-1)!
    assert.strictEqual(headers["x-amz-security-token"], "a token")
    assert.include(
      headers.authorization,
      "SignedHeaders=content-type;host;x-amz-date;x-amz-security-token;x-amz-target,"
    )
  })

  it("F10 reads the answer that AWS documents for GenerateDataKey", async () => {
    // https://docs.aws.amazon.com/kms/latest/APIReference/API_GenerateDataKey.html
    const blob =
      "AQEDAHjRYf5WytIc0C857tFSnBaPn2F8DgfmThbJlGfR8P3WlwAAAH4wfAYJKoZIhvcNAQcGoG8wbQIBADBoBgkqhkiG9w0BBwEwHgYJYIZIAWUDBAEuMBEEDEFogLqPWZconQhwHAIBEIA7d9AC7GeJJM34njQvg4Wf1d5sw0NIo1MrBqZa+YdhV8MrkBQPeac0ReRVNDt9qleAt+SHgIRF8P0H+7U="
    const Plaintext = "VdzKNHGzUAzJeRBVY+uUmofUGGiDzyB3+i9fVkh3piw="
    const KeyId = "arn:aws:kms:us-east-2:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
    server.state.fault = says(200, JSON.stringify({ CiphertextBlob: blob, KeyId, Plaintext }))
    const { plaintext, wrapped } = await withKms((kms) => kms.generate("alias/ExampleAlias", {}))
    assert.strictEqual(Buffer.from(Redacted.value(plaintext)).toString("base64"), Plaintext)
    assert.strictEqual(Buffer.from(wrapped).toString("base64"), blob)
  })
})

describe("a service that fails", () => {
  it("F10 in any way is class dependency, with a sentence that quotes nothing of the answer", async () => {
    const ways: ReadonlyArray<readonly [Fault, Kms.Reason, number?]> = [
      [failsWith(400, "AccessDeniedException"), "Denied"],
      [failsWith(400, "UnrecognizedClientException"), "Denied"],
      [failsWith(403, "com.amazonaws.kms#ExpiredTokenException"), "Denied"],
      [failsWith(400, "DisabledException"), "Disabled"],
      [failsWith(400, "KMSInvalidStateException:http://internal.amazon.com/"), "Disabled"],
      [failsWith(400, "NotFoundException"), "Missing"],
      [failsWith(400, "ThrottlingException"), "Throttled"],
      [failsWith(400, "LimitExceededException", { "retry-after": "7" }), "Throttled", 7],
      [failsWith(429, ""), "Throttled"],
      [failsWith(400, "KeyUnavailableException"), "Unavailable"],
      [failsWith(500, "KMSInternalException", { "retry-after": "x" }), "Unavailable"],
      [failsWith(400, "toString"), "Unavailable"],
      [says(400, "", { "x-amzn-errortype": "DisabledException" }), "Disabled"],
      [says(503, "down"), "Unavailable"],
      [says(302, "", { location: "http://127.0.0.1:1/" }), "Unavailable"],
      [says(200, "<html>sign in</html>"), "Unavailable"],
      [says(200, "[]"), "Unavailable"],
      [says(200, JSON.stringify({ Plaintext: "%%", CiphertextBlob: 5 })), "Unavailable"],
      [says(200, `{"Plaintext":"${"A".repeat(1024 * 1024)}"}`), "Unavailable"],
      [(response) => response.destroy(), "Unavailable"]
    ]
    for (const [i, [fault, reason, seconds]] of ways.entries()) {
      server.state.fault = fault
      for (
        const ask of [
          (kms: Kms.KmsPort) => kms.generate(keyArn, context),
          (kms: Kms.KmsPort) => kms.unwrap(keyArn, Buffer.from("blob"), context)
        ]
      ) {
        const error = await errorOf(ask)
        assert.strictEqual(error.reason, reason, `way ${i}: ${error.message}`)
        assert.strictEqual(error.failure, "dependency", `way ${i}`)
        // the client has followed no redirect
        if (i === 14) assert.strictEqual(error.message, "redirects (status 302): correct endpoint")
        assert.notMatch(error.message, /welcome|secret-name|sign in|AAAA/)
        assert.deepStrictEqual(error.retryAfter, seconds === undefined ? undefined : Duration.seconds(seconds))
      }
    }
  })

  it("F10 loses no message: bodies wait for the service, and a disabled key makes no dead letter", async () => {
    const encryption = Encryption.make()
    const layer = Layer.provide(
      Kms.layer({ keys: { a: keyArn }, writing: "a", context, cooldown: "1 millis" }),
      service()
    )
    const seal = Effect.suspend(() => encryption.seal(bytesOf("body"), orders))
    const sealed = await Effect.runPromise(Effect.provide(seal, layer))
    const open = Effect.suspend(() => encryption.open(sealed, orders))
    server.state.disabled.add(keyArn)
    for (const each of [open, seal]) {
      const error = await Effect.runPromise(Effect.provide(Effect.flip(Effect.asVoid(each)), layer))
      assert.deepStrictEqual([error._tag, error.failure], ["KeysUnavailable", "dependency"])
      assert.include(error.message, "enable it, or mark it revoked (DisabledException)")
    }
    server.state.disabled.clear()
    assert.deepStrictEqual(Buffer.from(await Effect.runPromise(Effect.provide(open, layer))), Buffer.from("body"))
    // another context, as a wrong configuration or an attacker has it
    const other = Layer.provide(Kms.layer({ keys: { a: keyArn }, writing: "a" }), service())
    assert.strictEqual((await Effect.runPromise(Effect.provide(Effect.flip(open), other)))._tag, "Tampered")
  })
})

describe("options", () => {
  it("F10 refuse plain http elsewhere, paths, and names that are no region", () => {
    const make = (options: Partial<AwsKms.Options>) => () => AwsKms.layer({ region, credentials: given, ...options })
    assert.throws(
      make({ region: "eu.example/" }),
      /^AwsKms: region must be a name such as eu-central-1, got "eu.example\/"$/
    )
    assert.throws(
      make({ endpoint: "http://kms.example" }),
      /^AwsKms: endpoint must be https, got http:\/\/kms.example$/
    )
    assert.throws(make({ endpoint: "https://kms.example/a" }), /must have no path/)
    assert.throws(make({ endpoint: "kms" }), /must be an address/)
  })

  it("F10 come from the environment", async () => {
    const env = ConfigProvider.layer(ConfigProvider.fromUnknown({
      AWS_REGION: region,
      AWS_ACCESS_KEY_ID: credentials.accessKeyId,
      AWS_SECRET_ACCESS_KEY: credentials.secretAccessKey,
      AWS_ENDPOINT_URL_KMS: server.endpoint
    }))
    const layer = AwsKms.layerConfig().pipe(Layer.provide(FetchHttpClient.layer), Layer.provide(env))
    await Effect.runPromise(Effect.provide(Effect.flatMap(Kms.Service, (kms) => kms.generate(keyArn, {})), layer))
    assert.deepStrictEqual(server.state.calls, ["GenerateDataKey"])
  })
})
