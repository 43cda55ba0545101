// ldapts, as Node.js applications use it. Reads its task from the environment, prints one "name=value" line per check.

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const { Client, EqualityFilter, InvalidCredentialsError } = createRequire(process.env.NPM_FOLDER + '/')('ldapts');
const env = process.env;
const timeouts = { timeout: 20000, connectTimeout: 20000 };

async function refusal(dn, password) {
  const client = new Client({ url: env.LDAP_URL, ...timeouts });
  try {
    await client.bind(dn, password);
    return 'accepted';
  } catch (error) {
    if (error instanceof InvalidCredentialsError) return error.code;
    throw error;
  } finally {
    await client.unbind();
  }
}

async function values(client, filter, name, options = {}) {
  const { searchEntries } = await client.search(env.USERS, { filter, attributes: [name], ...options });
  return searchEntries.flatMap((entry) => entry[name]).sort();
}

async function encrypted(url, certificate) {
  const tls = { ca: [readFileSync(certificate)] };
  const client = new Client({ url, ...timeouts, ...(url.startsWith('ldaps:') ? { tlsOptions: tls } : {}) });
  try {
    if (url.startsWith('ldap:')) await client.startTLS(tls);
    await client.bind(env.SEARCH_DN, env.SEARCH_PASSWORD);
    return (await values(client, '(cn=alice)', 'cn')).join() === 'alice';
  } catch (error) {
    if (/self.signed|verify|certificate/i.test(`${error.code} ${error.message}`)) return 'untrusted';
    throw error;
  } finally {
    await client.unbind();
  }
}

const say = (name, value) => console.log(`${name}=${value}`);

say('wrong', await refusal(env.ALICE_DN, 'wrong'));
say('alice', await refusal(env.ALICE_DN, env.ALICE_PASSWORD));
say('joerg', await refusal(env.JOERG_DN, env.JOERG_PASSWORD));

const client = new Client({ url: env.LDAP_URL, ...timeouts });
await client.bind(env.SEARCH_DN, env.SEARCH_PASSWORD);
const name = new EqualityFilter({ attribute: 'sAMAccountName', value: env.JOERG_NAME });
say('name', (await values(client, name, 'displayName')).join());
let pages = 0;
const people = [];
for await (const page of client.searchPaginated(env.USERS, {
  filter: '(objectClass=user)', attributes: ['cn'], paged: { pageSize: 10 },
})) {
  pages += 1;
  people.push(...page.searchEntries.map((entry) => entry.cn));
}
say('pages', pages);
say('people', people.sort().join());
const staff = new EqualityFilter({ attribute: 'memberOf', value: env.STAFF_DN });
say('staff', (await values(client, staff, 'cn')).join());
say('member', await client.compare(env.STAFF_DN, 'member', env.ALICE_DN));
await client.unbind();

say('starttls', await encrypted(env.LDAP_URL, env.CERTIFICATE));
say('ldaps', await encrypted(env.LDAPS_URL, env.CERTIFICATE));
say('other', await encrypted(env.LDAPS_URL, env.OTHER_CERTIFICATE));
