// An OpenID provider that knows some people, whatever their passwords. It prints its address, and serves until stdin ends.
import { createServer } from 'node:http'
import Provider from 'oidc-provider'

const { people, client } = JSON.parse(process.env.KNOWS)
const server = createServer()
server.listen(0, '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${server.address().port}`
  const provider = new Provider(issuer, {
    clients: [client],
    claims: { openid: ['sub'], email: ['email', 'email_verified'], profile: ['groups'] },
    pkce: { required: () => true },
    findAccount: (_, id) => people[id] && { accountId: id, claims: () => ({ sub: id, ...people[id] }) },
    async loadExistingGrant(ctx) {
      const { client, session } = ctx.oidc
      const grant = new provider.Grant({ clientId: client.clientId, accountId: session.accountId })
      grant.addOIDCScope('openid email profile')
      await grant.save()
      return grant
    },
  })
  server.on('request', provider.callback())
  console.log(issuer)
})
process.stdin.resume()
process.stdin.on('end', () => process.exit())
