<?php
// PHP's ldap functions, as web applications use them. Reads its task from the environment, prints one "name=value"
// line per check.

declare(strict_types=1);

function say(string $name, mixed $value): void
{
    echo $name, '=', is_bool($value) ? ($value ? 'true' : 'false') : $value, "\n";
}

function connection(string $url): LDAP\Connection
{
    $link = ldap_connect($url);
    ldap_set_option($link, LDAP_OPT_PROTOCOL_VERSION, 3);
    ldap_set_option($link, LDAP_OPT_REFERRALS, 0);
    ldap_set_option($link, LDAP_OPT_NETWORK_TIMEOUT, 20);
    return $link;
}

function refusal(string $dn, string $password): string
{
    $link = connection(getenv('LDAP_URL'));
    return @ldap_bind($link, $dn, $password) ? 'accepted' : (string) ldap_errno($link);
}

function values(LDAP\Connection $link, string $filter, string $name): array
{
    $found = [];
    foreach (ldap_get_entries($link, ldap_search($link, getenv('USERS'), $filter, [$name])) as $entry) {
        if (is_array($entry)) {
            $found[] = $entry[strtolower($name)][0];
        }
    }
    sort($found, SORT_STRING);
    return $found;
}

function encrypted(string $url, string $certificate, bool $start): string
{
    ldap_set_option(null, LDAP_OPT_X_TLS_CACERTFILE, $certificate);
    ldap_set_option(null, LDAP_OPT_X_TLS_REQUIRE_CERT, LDAP_OPT_X_TLS_DEMAND);
    $link = connection($url);
    if ($start && !@ldap_start_tls($link)) {
        return 'untrusted';
    }
    if (!@ldap_bind($link, getenv('SEARCH_DN'), getenv('SEARCH_PASSWORD'))) {
        return ldap_errno($link) === -1 ? 'untrusted' : (string) ldap_errno($link);
    }
    return values($link, '(cn=alice)', 'cn') === ['alice'] ? 'true' : 'false';
}

if (($argv[1] ?? '') === 'other') {
    say('other', encrypted(getenv('LDAPS_URL'), getenv('OTHER_CERTIFICATE'), false));
    exit(0);
}

say('wrong', refusal(getenv('ALICE_DN'), 'wrong'));
say('alice', refusal(getenv('ALICE_DN'), getenv('ALICE_PASSWORD')));
say('joerg', refusal(getenv('JOERG_DN'), getenv('JOERG_PASSWORD')));

$link = connection(getenv('LDAP_URL'));
ldap_bind($link, getenv('SEARCH_DN'), getenv('SEARCH_PASSWORD'));
$name = ldap_escape(getenv('JOERG_NAME'), '', LDAP_ESCAPE_FILTER);
say('name', values($link, "(sAMAccountName=$name)", 'displayName')[0]);
$people = [];
$pages = 0;
$cookie = '';
do {
    $controls = [['oid' => LDAP_CONTROL_PAGEDRESULTS, 'iscritical' => true, 'value' => ['size' => 10, 'cookie' => $cookie]]];
    $result = ldap_search($link, getenv('USERS'), '(objectClass=user)', ['cn'], 0, -1, -1, LDAP_DEREF_NEVER, $controls);
    ldap_parse_result($link, $result, $code, $matched, $message, $referrals, $answered);
    foreach (ldap_get_entries($link, $result) as $entry) {
        if (is_array($entry)) {
            $people[] = $entry['cn'][0];
        }
    }
    $pages++;
    $cookie = $answered[LDAP_CONTROL_PAGEDRESULTS]['value']['cookie'] ?? '';
} while ($cookie !== '');
sort($people, SORT_STRING);
say('pages', $pages);
say('people', implode(',', $people));
$staff = ldap_escape(getenv('STAFF_DN'), '', LDAP_ESCAPE_FILTER);
say('staff', implode(',', values($link, "(memberOf=$staff)", 'cn')));
say('member', ldap_compare($link, getenv('STAFF_DN'), 'member', getenv('ALICE_DN')));
say('whoami', ldap_exop_whoami($link));

say('starttls', encrypted(getenv('LDAP_URL'), getenv('CERTIFICATE'), true));
say('ldaps', encrypted(getenv('LDAPS_URL'), getenv('CERTIFICATE'), false));
// libldap keeps what a process trusts from its first use of TLS on.
passthru(escapeshellarg(PHP_BINARY) . ' ' . escapeshellarg(__FILE__) . ' other');
